"""Are documents found by their own text? Asked of a new generation before the name points to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING

import numpy as np
from qdrant_client import models

from pipelines.chunking import Chunker
from pipelines.damage import committed_entries
from pipelines.ledger import Ledger
from pipelines.points import CONTENT_KEY
from pipelines.reembedding import chunker_of, embedded_text, unit_vector
from pipelines.store import batches

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.errors import JSON
    from pipelines.manifest import Manifest
    from pipelines.storage import StorageConfig
    from pipelines.store import Store

_QUERIES = 16
_ROUNDING = 1e-5
"""Difference of two scores that is rounding."""


@dataclass(frozen=True, slots=True)
class RecallReport:
    """How many documents were found by their own text."""

    checked: int
    """Documents of which a chunk was searched; all that have chunks, where there are fewer than asked for."""
    found: int
    missed_ids: tuple[str, ...]
    """Documents that were not found."""


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    """A chunk that is to be found, and what it is searched by."""

    document_id: str
    point_id: str
    text: JSON
    own: float
    """Cosine of the stored vector and the query."""
    query: list[float]


def recall_check(
    store: Store,
    physical: str,
    encoder: KVEncoder,
    cut_by: Chunker | Manifest,
    *,
    documents: int = 64,
    seed: int = 0,
    limit: int = 10,
    storage: StorageConfig | None = None,
) -> RecallReport:
    """Search a collection for some of its own chunks, as people search it.

    A chunk of each document drawn is embedded again, as a document. It is found when its point, or one with the same
    text, is among the hits, or is as near as the last of them: of more near copies than hits, chance shows some. A
    chunk that is not there, or whose text was altered, is missed.

    Args:
        store: Where the collection is.
        physical: The Qdrant collection, not a name that points to it.
        encoder: The one that filled it.
        cut_by: The chunker that cut its documents, or its manifest, which tells how.
        documents: How many to draw.
        seed: The same seed draws the same documents and chunks.
        limit: Hits per search.
        storage: How the server keeps the vectors, which searches have to make up for.
    """
    drawn = {point: document for _, document, point in nsmallest(documents, _keyed(Ledger(store, physical), seed))}
    chunker = cut_by if isinstance(cut_by, Chunker) else chunker_of(cut_by, encoder)
    probes = _probes(store, physical, encoder, chunker, drawn)
    missed = sorted(set(drawn.values()) - {probe.document_id for probe in probes})
    params = storage.search_params() if storage is not None and not store.embedded else None
    for batch in batches(probes, _QUERIES):
        requests = [
            models.QueryRequest(query=probe.query, limit=limit, params=params, with_payload=[CONTENT_KEY])
            for probe in batch
        ]
        answers = store.call(store.client.query_batch_points, physical, requests)
        missed += [
            probe.document_id
            for probe, answer in zip(batch, answers, strict=True)
            if not _is_among(probe, answer.points)
        ]
    return RecallReport(len(drawn), len(drawn) - len(missed), tuple(missed))


def _keyed(ledger: Ledger, seed: int) -> Iterator[tuple[bytes, str, str]]:
    """Yield (key, document, one of its points) of all documents that have any; keys are as good as random."""
    for entry in committed_entries(ledger):
        if entry.point_ids:
            key = hashlib.sha256(f"{seed} {entry.document_id}".encode()).digest()
            yield key, entry.document_id, entry.point_ids[int.from_bytes(key, "big") % len(entry.point_ids)]


def _probes(
    store: Store, physical: str, encoder: KVEncoder, chunker: Chunker, drawn: Mapping[str, str]
) -> list[_Probe]:
    """Embed those chunks again that are there and have their text."""
    records = store.call(store.client.retrieve, physical, ids=list(drawn), with_vectors=True) if drawn else []
    texts = [embedded_text(chunker, record.payload or {}) for record in records]
    whole = [text for text in texts if text is not None]
    vectors = iter(encoder.encode_document(whole) if whole else ())
    probes = []
    for record, text in zip(records, texts, strict=True):
        if text is not None and record.payload is not None:
            query = unit_vector(next(vectors))
            own = float(unit_vector(np.asarray(record.vector, dtype=np.float32)) @ query)
            point = str(record.id)
            probes.append(_Probe(drawn[point], point, record.payload[CONTENT_KEY], own, query.tolist()))
    return probes


def _is_among(probe: _Probe, hits: Sequence[models.ScoredPoint]) -> bool:
    if any(str(hit.id) == probe.point_id or (hit.payload or {}).get(CONTENT_KEY) == probe.text for hit in hits):
        return True
    return bool(hits) and abs(probe.own - hits[-1].score) <= _ROUNDING
