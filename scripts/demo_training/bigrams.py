"""A low-rank bigram model: what lets the decoder predict words from its first step on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix  # type: ignore[import-untyped]
from torch import Tensor

from demo_training.tokens import TokenCorpus

BACKOFF = 20.0
"""Weight, in tokens, of the plain frequencies among the successors of each piece."""
LARGEST = 3.0
"""Bound of an input feature, whose mean square over running text is 1; only rare pieces reach it."""


@dataclass(frozen=True, slots=True)
class BigramModel:
    """Logits of the next piece v after piece w: inputs[w] . outputs[v]."""

    inputs: Tensor
    """(V, R) float32, mean square 1 per column over running text."""
    outputs: Tensor
    """(V, R) float32."""


def bigram_model(corpus: TokenCorpus, vocabulary: int, rank: int, seed: int) -> BigramModel:
    """Fit log p(next | current) by weighted least squares.

    Rows are weighted by how frequent the current piece is and columns by how frequent the next one is, which is the
    second-order form of the cross-entropy around the frequencies.

    Args:
        corpus: running text.
        vocabulary: V.
        rank: R.
        seed: of the randomised singular value decomposition.
    """
    counts = csr_matrix((vocabulary, vocabulary), dtype=np.float32)
    for start in range(0, len(corpus.ids) - 1, 4_000_000):
        ids = corpus.ids[start : start + 4_000_001].astype(np.int32)
        ones = np.ones(len(ids) - 1, dtype=np.float32)
        counts = counts + coo_matrix((ones, (ids[:-1], ids[1:])), shape=counts.shape).tocsr()
    frequency = torch.from_numpy(corpus.frequencies(vocabulary)).float().clamp_min(1e-8)
    matrix = (BACKOFF * frequency)[None].repeat(vocabulary, 1)
    cells = counts.tocoo()
    matrix[torch.from_numpy(cells.row).long(), torch.from_numpy(cells.col).long()] += torch.from_numpy(cells.data)
    matrix.log_()
    matrix -= (matrix @ frequency)[:, None]  # a constant per row changes no probability
    scale = frequency.sqrt()
    matrix *= scale[:, None] * scale[None]
    torch.manual_seed(seed)
    left, values, right = torch.svd_lowrank(matrix, q=min(rank + 16, vocabulary), niter=3)
    inputs = left[:, :rank] / scale[:, None]
    outputs = right[:, :rank] * values[:rank] / scale[:, None]
    return BigramModel(inputs.clamp(-LARGEST, LARGEST), outputs)
