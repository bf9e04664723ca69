"""Search quality on a judged data set, measured through the pipeline that users run."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from qdrant_client import QdrantClient, models

from pipelines.beir import RetrievalDataset, read_corpus, read_dataset
from pipelines.chunking import ChunkingConfig
from pipelines.errors import JSON, TerminalError
from pipelines.ingestion import ingest
from pipelines.report import IngestReport, Progress
from pipelines.retrieval import open_collection
from pipelines.sources import open_source
from pipelines.store import Store, open_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvembed import KVEncoder

METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100")
"""Names as ranx knows them; graded gains are linear, a document counts as relevant from grade 1."""
DEPTH = 100
"""Documents ranked per query."""

_COLLECTION = "evaluation"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out, and everything needed to get it again.

    Attributes:
        dataset: Name of the data set.
        metrics: Metric -> mean over the queries.
        per_query: Query id -> metric -> value.
        queries: Queries that count.
        unjudged_queries: Left out, because nothing is judged for them.
        queries_without_relevant: Left out, because no document is judged relevant for them.
        self_hits_removed: Queries that are themselves in the corpus; that document is taken out of their ranking, and
            of their judgements.
        judged_missing: Judged documents that the corpus does not have; they count as not found.
        truncated_queries: Queries of which something was cut.
        ingest: Report of filling the collection.
        query_tokens: Tokens of all queries, prompts included.
        seconds: Stage -> seconds, "encode_queries" and "rank" beside those of the ingest.
        encoder: Identity of the encoder, hashes included.
        fingerprint: Its fingerprint.
        chunking: Chunking configuration.
    """

    dataset: str
    metrics: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]
    queries: int
    unjudged_queries: int
    queries_without_relevant: int
    self_hits_removed: int
    judged_missing: int
    truncated_queries: int
    ingest: IngestReport
    query_tokens: int
    seconds: Mapping[str, float]
    encoder: Mapping[str, JSON]
    fingerprint: str
    chunking: Mapping[str, JSON]

    @property
    def tokens_per_second(self) -> float:
        """Document tokens, prompts included, per second of embedding."""
        return self.ingest.tokens / max(self.seconds.get("embed", 0.0), 1e-9)

    def to_dict(self) -> dict[str, JSON]:
        """Return everything as JSON values."""
        return {
            "dataset": self.dataset,
            "metrics": dict(self.metrics),
            "queries": self.queries,
            "unjudged_queries": self.unjudged_queries,
            "queries_without_relevant": self.queries_without_relevant,
            "self_hits_removed": self.self_hits_removed,
            "judged_missing": self.judged_missing,
            "truncated_queries": self.truncated_queries,
            "tokens_per_second": self.tokens_per_second,
            "query_tokens": self.query_tokens,
            "seconds": dict(self.seconds),
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "chunking": self.chunking,
            "ingest": self.ingest.to_dict(),
            "per_query": {query: dict(values) for query, values in self.per_query.items()},
        }


def evaluate(
    dataset: str | Path | RetrievalDataset,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Index a data set into a throw-away store, search it with its queries, and score the rankings.

    A document ranks by its best chunk. A query that is itself a document of the corpus, by id and by text, does not
    find itself; equal ids alone mean nothing, for many sets number both from 1.

    Args:
        dataset: Folder in the layout of BEIR, or one that was read already.
        encoder: Any layers setting; "auto" is resolved from the corpus.
        chunking: How documents are cut.
        progress: Told about every stage.

    Raises:
        SourceError: the folder is not such a data set.
        TerminalError: ranx is not installed.
    """
    judged = dataset if isinstance(dataset, RetrievalDataset) else read_dataset(dataset)
    require_ranx()
    corpus_ids, self_hits = _look_through(judged)
    judgements = _without_self_hits(judged.judgements, self_hits)
    source = open_source(str(judged.corpus), id_field="_id", text_field="text", title_field="title")
    with open_store(QdrantClient(":memory:")) as store:
        report = ingest(source, store, _COLLECTION, encoder, chunking=chunking, progress=progress)
        with open_collection(store, _COLLECTION, encoder=encoder.with_layers(report.layers)) as opened:
            pinned = opened.pinned()
            started = time.perf_counter()
            texts = list(judged.queries.values())
            encoded = pinned.encoder.encode_counted(texts, "query")
            embedded = time.perf_counter()
            rankings = _rank(store, pinned.physical, judged, encoded.vectors, self_hits, progress)
            seconds = {
                **report.seconds,
                "encode_queries": embedded - started,
                "rank": time.perf_counter() - embedded,
            }
            manifest = pinned.manifest
    per_query = score(judgements, rankings)
    return Evaluation(
        dataset=judged.name,
        metrics={name: float(np.mean([values[name] for values in per_query.values()])) for name in METRICS},
        per_query=per_query,
        queries=len(per_query),
        unjudged_queries=judged.unjudged_queries,
        queries_without_relevant=judged.queries_without_relevant + len(judged.judgements) - len(judgements),
        self_hits_removed=len(self_hits),
        judged_missing=len({name for grades in judgements.values() for name in grades} - corpus_ids),
        truncated_queries=int((encoded.truncated_tokens > 0).sum()),
        ingest=report,
        query_tokens=int(encoded.tokens.sum()),
        seconds=seconds,
        encoder=manifest.encoder,
        fingerprint=manifest.fingerprint,
        chunking=manifest.chunking,
    )


def top_documents(store: Store, physical: str, vector: NDArray[np.float32], limit: int) -> list[tuple[str, float]]:
    """Rank documents by their best chunk, equal scores by id.

    Args:
        store: Open store.
        physical: Qdrant collection to search.
        vector: (E,) float32, a query.
        limit: Documents wanted.

    Returns:
        (document id, score) of at most `limit` documents, best first.
    """
    chunks = 4 * limit
    while True:
        hits = store.call(
            store.client.query_points,
            physical,
            query=vector.tolist(),
            limit=chunks,
            with_payload=["metadata.document_id"],
            search_params=None if store.embedded else models.SearchParams(exact=True),
        ).points
        best: dict[str, float] = {}
        for hit in hits:
            document_id = (hit.payload or {})["metadata"]["document_id"]
            best[document_id] = max(hit.score, best.get(document_id, hit.score))
        ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))
        # A document tied with the last one wanted may still lie behind the chunks seen.
        if len(hits) < chunks or (len(ranked) >= limit and hits[-1].score < ranked[limit - 1][1]):
            return ranked[:limit]
        chunks *= 4


def score(
    judgements: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Compute `METRICS` for every judged query.

    Args:
        judgements: Query id -> document id -> grade.
        rankings: Query id -> document ids, best first; an empty ranking scores 0.

    Returns:
        Query id -> metric -> value in 0..1.

    Raises:
        TerminalError: ranx is not installed.

    Source: ranx, which is tested against trec_eval.
    """
    ranx = require_ranx()
    values = {query: dict.fromkeys(METRICS, 0.0) for query in judgements}
    found = {query: rankings[query] for query in sorted(judgements) if rankings.get(query)}
    if not found:
        return values
    # Places stand in for scores: ranx has no rule for ties.
    run = ranx.Run({query: {name: -float(place) for place, name in enumerate(names)} for query, names in found.items()})
    relevant = {query: {name: grade for name, grade in judgements[query].items() if grade > 0} for query in found}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba warns about ranx's own casts
        ranx.evaluate(ranx.Qrels(relevant), run, list(METRICS), return_mean=False)
    for name in METRICS:
        for query, value in run.scores[name].items():
            values[query][name] = float(value)
    return values


def require_ranx() -> ModuleType:
    """Import ranx, which takes seconds, on first need.

    Raises:
        TerminalError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("ranx")
    except ImportError as error:
        raise TerminalError(
            "evaluating needs ranx, which is not installed; run `pip install 'kvembed[eval]'`"
        ) from error


def _look_through(judged: RetrievalDataset) -> tuple[frozenset[str], frozenset[str]]:
    """Return the corpus' ids, and the queries that stand in the corpus under their own id with their own text."""
    names = set()
    own = set()
    for name, text in read_corpus(judged.corpus):
        names.add(name)
        if name in judged.queries and _words(text) == _words(judged.queries[name]):
            own.add(name)
    return frozenset(names), frozenset(own)


def _without_self_hits(
    judgements: Mapping[str, Mapping[str, int]], self_hits: frozenset[str]
) -> dict[str, dict[str, int]]:
    """Drop what a query says of itself, and queries that have nothing else to find."""
    others = {
        query: {name: grade for name, grade in grades.items() if query not in self_hits or name != query}
        for query, grades in judgements.items()
    }
    return {query: grades for query, grades in others.items() if any(grade > 0 for grade in grades.values())}


def _words(text: str) -> list[str]:
    return text.casefold().split()


def _rank(
    store: Store,
    physical: str,
    judged: RetrievalDataset,
    vectors: NDArray[np.float32],
    self_hits: frozenset[str],
    progress: Progress | None,
) -> dict[str, list[str]]:
    rankings = {}
    for done, (query, vector) in enumerate(zip(judged.queries, vectors, strict=True), start=1):
        names = [name for name, _ in top_documents(store, physical, vector, DEPTH + 1)]
        if query in self_hits and query in names:
            names.remove(query)
        rankings[query] = names[:DEPTH]
        if progress is not None:
            progress("search", done, len(judged.queries))
    return rankings
