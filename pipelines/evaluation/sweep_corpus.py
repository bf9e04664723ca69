"""A data set ready to be swept over: cut once, each distinct text once, whole or an honest part of it."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines.chunking import CHUNKING_FAILURES, Chunker, TokenBudget
from pipelines.documents import Document, RejectedDocument
from pipelines.errors import JSON, SourceError, TerminalError
from pipelines.evaluation.measures import METRICS
from pipelines.evaluation.sweep_records import Subset
from pipelines.evaluation.tasks import EvaluationTask
from pipelines.layer_choice import ChunkSample
from pipelines.sources import open_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.report import Progress

_TOLD = 64


@dataclass(frozen=True, slots=True, eq=False)
class SweepCorpus:
    """Documents as every configuration embeds them.

    Attributes:
        task: Its queries are those that are kept.
        subset: How much was kept; None for all.
        texts: Distinct texts of chunks; equal chunks are embedded once and tie exactly.
        documents: Ids of the documents that have chunks.
        starts: (D,) first chunk of each document.
        text_of: (n,) which text each chunk is.
        sample: What layers are chosen from and transforms are fitted to, as by ingestion: up to 1,000 chunks.
        counts: Documents, of those empty and failed, chunks, and what else the data set held.
        digest: Hash of all that a score depends on beside the encoder.
    """

    task: EvaluationTask
    subset: Subset | None
    texts: tuple[str, ...]
    documents: tuple[str, ...]
    starts: NDArray[np.int64]
    text_of: NDArray[np.int64]
    sample: tuple[str, ...]
    counts: Mapping[str, JSON]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self._hashed())

    @property
    def query_texts(self) -> list[str]:
        """Texts of the queries, in order."""
        return self.task.texts

    def _hashed(self) -> str:
        """Hash texts, places, queries, judgements and what is measured."""
        found = hashlib.sha256()
        queries = [(query.id, query.text, sorted(query.judgements.items())) for query in self.task.queries.values()]
        places = (self.starts.tolist(), self.text_of.tolist())
        for part in (self.texts, self.documents, places, self.sample, queries, sorted(self.task.self_hits)):
            found.update(json.dumps(part).encode("ascii") + b"\n")
        found.update(json.dumps([METRICS, self.task.depth]).encode("ascii"))
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Part:
    """How much of a data set is to be kept; None keeps all.

    Attributes:
        queries: At most so many, drawn by the hash of their ids.
        documents: So many, every one judged for a kept query among them, the others drawn by the hash of their ids.
        seed: Another one draws others.
    """

    queries: int | None = None
    documents: int | None = None
    seed: int = 0


def read_sweep_corpus(task: EvaluationTask, budget: TokenBudget, part: Part, progress: Progress) -> SweepCorpus:
    """Read, cut and count the documents of a data set.

    Args:
        task: Of the whole data set.
        budget: Room of the tightest prompt that is swept, so that all configurations embed the same chunks.
        part: How much to keep.
        progress: Told how many documents are cut.

    Raises:
        SourceError: the corpus cannot be read, or has no document with text.
        TerminalError: more documents are judged for the kept queries than are to be kept.
    """
    kept = _kept_queries(task, part)
    wanted = _kept_documents(task, kept, part)
    reading = _Reading(Chunker(task.chunking, budget))
    for number, found in enumerate(_documents(task, wanted), start=1):
        reading.take(found)
        if number % _TOLD == 0:
            progress("cut", number, None)
    if not reading.text_of:
        raise SourceError(f"no document of {task.corpus} has text that can be cut; nothing can be found")
    queries = {name: query for name, query in task.queries.items() if name in kept}
    whole = len(kept) == len(task.queries) and wanted is None
    documents = task.counts.documents if wanted is None else len(wanted)
    missing = {name for query in queries.values() for name in query.judgements} - reading.seen
    return SweepCorpus(
        task=replace(task, queries=queries),
        subset=None if whole else Subset(len(kept), len(task.queries), documents, task.counts.documents, part.seed),
        texts=tuple(reading.texts),
        documents=tuple(reading.documents),
        starts=np.array(reading.starts, dtype=np.int64),
        text_of=np.array(reading.text_of, dtype=np.int64),
        sample=tuple(reading.sample.texts),
        counts={
            **{name: value for name, value in asdict(task.counts).items() if name != "missing_ids"},
            "documents": documents,
            "documents_empty": reading.empty,
            "documents_failed": reading.failed,
            "judged_missing": len(missing),
            "self_hits_removed": len(task.self_hits & kept),
            "chunks": len(reading.text_of),
            "texts": len(reading.texts),
        },
    )


class _Reading:
    """What was read so far."""

    def __init__(self, chunker: Chunker) -> None:
        self.texts: dict[str, int] = {}
        self.documents: list[str] = []
        self.starts: list[int] = []
        self.text_of: list[int] = []
        self.seen: set[str] = set()
        self.sample = ChunkSample()
        self.empty = self.failed = 0
        self._chunker = chunker

    def take(self, found: Document | RejectedDocument) -> None:
        """Cut one document; as in ingestion, one that cannot be cut, or has another's id, cannot be found."""
        if found.id in self.seen:
            self.failed += 1
            return
        self.seen.add(found.id)
        try:
            chunks = [] if isinstance(found, RejectedDocument) else list(self._chunker.chunks(found))
        except CHUNKING_FAILURES:
            self.failed += 1
            return
        if not chunks:
            self.failed += isinstance(found, RejectedDocument)
            self.empty += isinstance(found, Document)
            return
        self.sample.add(chunks)
        self.documents.append(found.id)
        self.starts.append(len(self.text_of))
        self.text_of += [self.texts.setdefault(chunk.embedded_text, len(self.texts)) for chunk in chunks]


def _documents(task: EvaluationTask, wanted: frozenset[str] | None) -> Iterator[Document | RejectedDocument]:
    source = open_source(str(task.corpus), id_field="_id", text_field="text", title_field="title")
    return (found for found in source.documents() if wanted is None or found.id in wanted)


def _kept_queries(task: EvaluationTask, part: Part) -> frozenset[str]:
    if part.queries is None or part.queries >= len(task.queries):
        return frozenset(task.queries)
    return frozenset(_drawn(task.queries, part.queries, part.seed))


def _kept_documents(task: EvaluationTask, kept: frozenset[str], part: Part) -> frozenset[str] | None:
    """Return None where all are kept."""
    if part.documents is None or part.documents >= task.counts.documents:
        return None
    judged = {document for name in kept for document in task.queries[name].judgements}
    names = {name for name, _ in task.documents()}
    present = judged & names
    if len(present) > part.documents:
        raise TerminalError(
            f"{part.documents:,} documents are fewer than the {len(present):,} that are judged for the "
            f"{len(kept):,} queries; keep at least {len(present):,} with --documents, or fewer --queries"
        )
    return frozenset(present) | set(_drawn(names - present, part.documents - len(present), part.seed))


def _drawn(names: Iterable[str], count: int, seed: int) -> list[str]:
    """Return the names of least keyed hash: of two draws with one seed the smaller is part of the larger."""
    key = seed.to_bytes(8, "big")
    return heapq.nsmallest(count, names, key=lambda name: hashlib.blake2b(name.encode("utf-8"), key=key).digest())
