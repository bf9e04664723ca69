"""One configuration over a corpus that is cut: vectors, exact ranking, metrics.

Every vector is compared with every query in memory. A store would add nothing: embedded Qdrant compares with every
point as well, and what a server's index leaves out is not what a sweep is about; `kvembed evaluate` goes through the
store. Documents rank by their best chunk and ties by id, by the same code as there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import TerminalError
from pipelines.evaluation.measures import score
from pipelines.evaluation.sweep_files import Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvembed import FittedTransform, KVEncoder, TransformConfig
    from kvembed.prompts import Role
    from pipelines.evaluation.sweep_corpus import SweepCorpus
    from pipelines.evaluation.systems import Ranking

_SLICE = 1024
"""Texts per call of the encoder: after each somebody is told."""
_CELLS = 8_000_000
"""Scores held at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """What one forward configuration makes of a corpus, before any transform.

    Attributes:
        documents: (n, E) float32, of each distinct text, not of unit length.
        queries: (Q, E) float32.
        tokens: That went through the model.
        truncated: Texts and queries of which something was cut.
        seconds: What it took.
        encoder: What made them, for what is fitted to them; without transform.
    """

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    tokens: int
    truncated: int
    seconds: float
    encoder: KVEncoder


def prepare_scoring() -> None:
    """Let ranx compile, so that it is no part of the first configuration's time, nor of the time left."""
    score({"query": {"document": 1}}, {"query": ["document"]})


def embed(encoder: KVEncoder, corpus: SweepCorpus, told: Callable[[int], None]) -> Vectors:
    """Embed all texts and queries.

    Args:
        encoder: Its transform is left out.
        corpus: What is embedded.
        told: How many more texts are done.
    """
    started = perf_counter()
    bare = encoder.bare()
    documents, *cost = _embedded(bare, corpus.texts, "document", told)
    queries, *query_cost = _embedded(bare, corpus.query_texts, "query", told)
    tokens, truncated = (one + other for one, other in zip(cost, query_cost, strict=True))
    return Vectors(documents, queries, tokens, truncated, perf_counter() - started, encoder.with_transform(None))


def _embedded(
    encoder: KVEncoder, texts: Sequence[str], role: Role, told: Callable[[int], None]
) -> tuple[NDArray[np.float32], int, int]:
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    tokens = truncated = 0
    for start in range(0, len(texts), _SLICE):
        part = texts[start : start + _SLICE]
        found = encoder.encode_counted(part, role)
        vectors[start : start + len(part)] = found.vectors
        tokens += int(found.tokens.sum())
        truncated += int((found.truncated_tokens > 0).sum())
        told(len(part))
    return vectors, tokens, truncated


def score_vectors(vectors: Vectors, asked: TransformConfig | None, corpus: SweepCorpus) -> Scored:
    """Transform, rank and score.

    Args:
        vectors: Of one forward configuration.
        asked: Fitted to the corpus' sample of documents, where it wants one; it never sees a query.
        corpus: What they are of.

    Raises:
        DegenerateSampleError: the sample cannot bear the transform.
        UnsupportedModelError: it filters, and the model's files have no language-model head.
    """
    transform = None if asked is None else fit(asked, vectors, corpus)
    documents, queries = (_unit(part, transform) for part in (vectors.documents, vectors.queries))
    rankings = rank(documents, queries, corpus)
    judgements = {query.id: query.judgements for query in corpus.task.queries.values()}
    found = score(judgements, {query: [name for name, _ in ranking] for query, ranking in rankings.items()})
    return Scored(
        per_query={query: found[query] for query in judgements},
        dimension=int(documents.shape[1]),
        tokens=vectors.tokens,
        truncated=vectors.truncated,
        seconds=vectors.seconds,
    )


def fit(asked: TransformConfig, vectors: Vectors, corpus: SweepCorpus) -> FittedTransform:
    """Fit a transform to the vectors of the corpus' sample, as ingestion does.

    Raises:
        DegenerateSampleError: the sample cannot bear it.
        UnsupportedModelError: it filters, and the model's files have no language-model head.
    """
    from kvembed.fitting import data_free_transform, fitted_to
    from kvembed.models import resolve_model

    config = vectors.encoder.config
    folder = resolve_model(config.model, config.revision) if asked.filter_directions else Path(config.model)
    if not asked.needs_sample:
        return data_free_transform(asked, folder, vectors.documents.shape[1])
    places = {text: place for place, text in enumerate(corpus.texts)}
    sample = vectors.documents[[places[text] for text in corpus.sample]]
    return fitted_to(asked, sample, folder, vectors.encoder.fingerprint)


def rank(documents: NDArray[np.float32], queries: NDArray[np.float32], corpus: SweepCorpus) -> dict[str, Ranking]:
    """Rank documents by their best chunk, exactly.

    Args:
        documents: (n, E) float32 of unit length, of each distinct text.
        queries: (Q, E) float32 of unit length.
        corpus: Which documents the texts are of.

    Returns:
        Query id -> ranking, as `EvaluationTask.ranked` makes it.
    """
    task = corpus.task
    wanted = min(task.depth + 1, len(corpus.documents))
    rankings = {}
    names = list(task.queries)
    step = max(1, _CELLS // len(corpus.text_of))
    for first in range(0, len(names), step):
        scores = queries[first : first + step] @ documents.T
        best = np.maximum.reduceat(scores[:, corpus.text_of], corpus.starts, axis=1)
        for name, row in zip(names[first : first + step], best, strict=True):
            least = np.partition(row, -wanted)[-wanted]
            found = np.flatnonzero(row >= least)  # everything tied with the last one wanted is among them
            rankings[name] = task.ranked(name, [(corpus.documents[place], float(row[place])) for place in found])
    return rankings


def key_of(encoder: KVEncoder, corpus: SweepCorpus) -> str:
    """Hash all that decides the scores of a configuration.

    Args:
        encoder: Computes it; its layers are resolved, its transform is what is asked for.
        corpus: What it is measured on.
    """
    entry = encoder.config.transform_entry()
    parts = [encoder.with_transform(None).fingerprint, entry, corpus.digest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


def check_transform(asked: TransformConfig, encoder: KVEncoder, sample: Sequence[str]) -> None:
    """Refuse a transform that the model or the sample cannot bear, before anything is embedded.

    Raises:
        ConfigError: there are not as many directions.
        TerminalError: the sample is too small.
        UnsupportedModelError: it filters, and the model's files have no language-model head.
    """
    from kvembed.fitting import MINIMUM_TEXTS

    asked.size(encoder.with_transform(None).dimension)
    encoder.config.with_transform(asked).transform_entry()
    if not asked.needs_sample:
        return
    least = max(MINIMUM_TEXTS, 0 if asked.dimensions is None else asked.dimensions + 1)
    if len(sample) < least:
        raise TerminalError(f"it is fitted to {len(sample)} distinct chunks and needs at least {least}")


def _unit(vectors: NDArray[np.float32], transform: FittedTransform | None) -> NDArray[np.float32]:
    """Return vectors of unit length, as an encoder makes them."""
    import torch

    found = torch.from_numpy(vectors) if transform is None else transform.apply(torch.from_numpy(vectors))
    unit: NDArray[np.float32] = torch.nn.functional.normalize(found, dim=-1).numpy()
    return unit
