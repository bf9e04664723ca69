"""Where token vectors begin: factorised positive pointwise mutual information."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix  # type: ignore[import-untyped]
from torch import Tensor

from demo_training.tokens import TokenCorpus

WINDOW = 5
CONTEXT_SMOOTHING = 0.75
RARE_SHARE = 1e-3
"""A piece with this share of all tokens counts half as much as a rare one (Arora et al. 2017)."""

_CHUNK = 4_000_000
_log = logging.getLogger(__name__)


def ppmi_factors(corpus: TokenCorpus, vocabulary: int, width: int, seed: int) -> Tensor:
    """Factorise the PPMI matrix of the corpus.

    Returns:
        (V, E) float32 with orthonormal columns: the left singular vectors of the E largest singular values, unscaled.
        Flattening the spectrum keeps words apart that share a topic, which retrieval needs.

    Source: Levy and Goldberg 2014 (PPMI, its factorisation).
    """
    counts = _cooccurrences(corpus, vocabulary)
    _log.info("co-occurrence counts: %d non-zero", counts.nnz)
    torch.manual_seed(seed)
    left, _, _ = torch.svd_lowrank(_positive_information(counts), q=min(width + 32, vocabulary), niter=3)
    return left[:, :width].contiguous()


def _cooccurrences(corpus: TokenCorpus, vocabulary: int) -> csr_matrix:
    """(V, V) symmetric counts of pairs at most WINDOW apart; sentence ends are ignored."""
    total = csr_matrix((vocabulary, vocabulary), dtype=np.float32)
    for start in range(0, len(corpus.ids), _CHUNK):
        ids = corpus.ids[start : start + _CHUNK].astype(np.int32)
        for distance in range(1, WINDOW + 1):
            total = total + _pairs(ids[:-distance], ids[distance:], vocabulary)
    return csr_matrix(total + total.T)


def _pairs(left: NDArray[np.int32], right: NDArray[np.int32], vocabulary: int) -> csr_matrix:
    ones = np.ones(len(left), dtype=np.float32)
    return coo_matrix((ones, (left, right)), shape=(vocabulary, vocabulary)).tocsr()


def _positive_information(counts: csr_matrix) -> Tensor:
    """(V, V) float32: max(0, log(p(a, b) / (p(a) p(b)^smoothing)))."""
    rows = np.asarray(counts.sum(axis=1)).ravel() + 1e-9
    context = rows**CONTEXT_SMOOTHING
    context = context / context.sum()
    cells = counts.tocoo()
    information = np.log(cells.data / (rows[cells.row] * context[cells.col]))
    kept = information > 0
    matrix = torch.zeros(counts.shape, dtype=torch.float32)
    where = (torch.from_numpy(cells.row[kept]).long(), torch.from_numpy(cells.col[kept]).long())
    matrix[where] = torch.from_numpy(information[kept].astype(np.float32))
    return matrix
