"""BM25 by bm25s: over the chunks that encoders embed, over whole documents, or over what a collection holds."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipelines.chunking import CHUNKING_FAILURES, Chunker
from pipelines.damage import metadata_of
from pipelines.documents import Document
from pipelines.errors import JSON, StoreError, TerminalError
from pipelines.evaluation.measures import DEPTH
from pipelines.evaluation.memory import measured_memory
from pipelines.evaluation.ranking import rank_documents
from pipelines.evaluation.systems import CostFigures, Ranking, System, scored_system
from pipelines.point_store import PointStore
from pipelines.reembedding import chunker_of, embedded_text
from pipelines.report import Progress, silent
from pipelines.sources import open_source
from pipelines.store import batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.evaluation.queries import JudgedQuery
    from pipelines.evaluation.tasks import EvaluationTask
    from pipelines.pinned import PinnedCollection

Cut: TypeAlias = "Callable[[Document], Iterable[str]]"
"""A document -> the texts that are indexed of it."""

_BATCH = 256


@dataclass(frozen=True, slots=True)
class BM25Config:
    """How BM25 reads and weighs text.

    Nothing here was fitted to a data set: all is as bm25s has it by default, but for the stemmer, which it has none of.
    """

    k1: float = 1.5
    """How far a repeated word goes on counting, at least 0."""
    b: float = 0.75
    """How much a text's length counts against it, 0 to 1."""
    weights: str = "lucene"
    """bm25s's form of the weights; Lucene's are never negative."""
    word: str = r"(?u)\b\w\w+\b"
    """What a word is, in the lower-case text."""
    stop_words: str = "english"
    """Words left out: bm25s's list of 33."""
    stemmer: str = "english"
    """Snowball's, by PyStemmer."""

    def identity(self) -> dict[str, JSON]:
        """Return all fields, and the versions of what computes them."""
        libraries: dict[str, JSON] = {name: version(name) for name in ("bm25s", "PyStemmer")}
        return {"method": "bm25", **asdict(self), "libraries": libraries}


class BM25Index:
    """Texts, ready to be searched by their words.

    Args:
        texts: What is indexed; a text without a word is never found.
        config: How.

    Raises:
        TerminalError: bm25s or PyStemmer is not installed.
    """

    def __init__(self, texts: Sequence[str], config: BM25Config) -> None:
        self._library, stemming = require_bm25()
        self._config = config
        self._stemmer = stemming.Stemmer(config.stemmer)
        words = self._words(texts)
        self._size = len(words)
        self._index = None
        if any(words):
            self._index = self._library.BM25(k1=config.k1, b=config.b, method=config.weights)
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the score of each text, (n,) float32; 0 where no word of the query is in it."""
        [words] = self._words([query])
        if self._index is None or not words:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(words), dtype=np.float32)

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        if not texts:
            return []
        config = self._config
        found: list[list[str]] = self._library.tokenize(
            list(texts),
            token_pattern=config.word,
            stopwords=config.stop_words,
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )
        return found


def bm25_of_chunks(
    task: EvaluationTask, encoder: KVEncoder, chunking: ChunkingConfig, progress: Progress | None = None
) -> System:
    """Rank documents by their best chunk under BM25, over the very texts an encoder embeds, titles included.

    Args:
        task: What is asked.
        encoder: Whose tokenizer and limits decide where chunks end.
        chunking: How documents are cut.
        progress: Told of the stages "chunk" and "search".

    Raises:
        TerminalError: bm25s or PyStemmer is not installed.
    """
    chunker = Chunker(chunking, encoder)

    def cut(document: Document) -> Iterator[str]:
        return (chunk.embedded_text for chunk in chunker.chunks(document))

    told = progress or silent
    asked = _Asked("bm25", task.queries, lambda: _cut_corpus(task, cut, told), task.ranked)
    whose = encoder.bare().with_layers(()).identity()
    return _system(asked, _of_chunks(chunker, whose), chunking.to_dict(), told)


def bm25_of_documents(task: EvaluationTask, progress: Progress | None = None) -> System:
    """Rank whole documents under BM25, title and text as one; takes and raises what `bm25_of_chunks` does."""

    def whole(document: Document) -> Iterator[str]:
        yield f"{document.title}\n{document.text}"

    told = progress or silent
    asked = _Asked("bm25-documents", task.queries, lambda: _cut_corpus(task, whole, told), task.ranked)
    return _system(asked, {"unit": "document"}, {}, told)


def bm25_of_collection(
    pinned: PinnedCollection, queries: Mapping[str, JudgedQuery], progress: Progress | None = None
) -> System:
    """Rank a collection's documents by their best chunk under BM25, over the texts that were embedded.

    Args:
        pinned: The collection; all its texts are held in memory.
        queries: What is asked.
        progress: Told of the stages "chunk" and "search".

    Raises:
        StoreError: a chunk is not stored as it was embedded.
        TerminalError: bm25s or PyStemmer is not installed.
    """

    def ranked(_: str, found: Iterable[tuple[str, float]]) -> Ranking:
        return rank_documents(found)[:DEPTH]

    told, manifest = progress or silent, pinned.manifest
    asked = _Asked("bm25", queries, lambda: _stored(pinned, told), ranked)
    unit = _of_chunks(chunker_of(manifest, pinned.encoder), manifest.encoder)
    return _system(asked, unit, manifest.chunking, told)


def require_bm25() -> tuple[ModuleType, ModuleType]:
    """Import bm25s and PyStemmer on first need.

    Raises:
        TerminalError: one of them is not installed.
    """
    try:
        found = importlib.import_module("bm25s"), importlib.import_module("Stemmer")
    except ImportError as error:
        raise TerminalError(
            f"BM25 needs bm25s and PyStemmer, and {error.name} is not installed; run `pip install 'kvembed[eval]'`"
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own import asks for every debug message
    return found


@dataclass(slots=True)
class _Units:
    """Texts to be indexed, and the document each is of."""

    owners: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    quarantined: int = 0
    """Documents that could not be cut."""

    def add(self, document_id: str, text: str) -> None:
        self.owners.append(document_id)
        self.texts.append(text)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one system is: its name, what it is asked, where its texts come from, and how it ranks."""

    name: str
    queries: Mapping[str, JudgedQuery]
    units: Callable[[], _Units]
    ranked: Callable[[str, Iterable[tuple[str, float]]], Ranking]


def _of_chunks(chunker: Chunker, encoder: Mapping[str, JSON]) -> dict[str, JSON]:
    return {"unit": "chunk", "chunk_tokens": chunker.budget, "tokenizer_sha256": encoder["tokenizer_sha256"]}


def _system(asked: _Asked, unit: Mapping[str, JSON], chunking: Mapping[str, JSON], progress: Progress) -> System:
    config = BM25Config()
    identity = {**config.identity(), **unit}
    with measured_memory() as peak:
        started = time.perf_counter()
        units = asked.units()
        cut_at = time.perf_counter()
        index = BM25Index(units.texts, config)
        indexed = time.perf_counter()
        rankings = dict(_rankings(asked, index, units.owners, progress))
        searched = time.perf_counter()
    figures = CostFigures(
        chunks=len(units.texts),
        documents_quarantined=units.quarantined,
        peak_memory_bytes=peak.process,
        peak_device_memory_bytes=peak.device,
        seconds={"chunk": cut_at - started, "index": indexed - cut_at, "rank": searched - indexed},
    )
    hashed = json.dumps([identity, dict(chunking)], sort_keys=True).encode("utf-8")
    return scored_system(
        asked.name,
        asked.queries,
        rankings,
        identity=identity,
        fingerprint=hashlib.sha256(hashed).hexdigest(),
        chunking=chunking,
        figures=figures,
    )


def _cut_corpus(task: EvaluationTask, cut: Cut, progress: Progress) -> _Units:
    units = _Units()
    source = open_source(str(task.corpus), id_field="_id", text_field="text", title_field="title")
    for done, document in enumerate(source.documents(), start=1):
        try:
            pieces = list(cut(document)) if isinstance(document, Document) else None
        except CHUNKING_FAILURES:
            pieces = None
        units.quarantined += pieces is None
        for piece in pieces or ():
            units.add(document.id, piece)
        progress("chunk", done, task.counts.documents)
    return units


def _stored(pinned: PinnedCollection, progress: Progress) -> _Units:
    units, points = _Units(), PointStore(pinned.store, pinned.physical)
    chunker = chunker_of(pinned.manifest, pinned.encoder)
    for ids in batches((point for point, _ in points.scan()), _BATCH):
        for payload in points.payloads(ids).values():
            document_id, text = str(metadata_of(payload)["document_id"]), embedded_text(chunker, payload)
            if text is None:
                raise StoreError(
                    f"collection {pinned.name!r} does not hold a chunk of document {document_id!r} as it was embedded; "
                    f"run `kvembed verify {pinned.name} --repair`"
                )
            units.add(document_id, text)
        progress("chunk", len(units.texts), None)
    return units


def _rankings(
    asked: _Asked, index: BM25Index, owners: Sequence[str], progress: Progress
) -> Iterator[tuple[str, Ranking]]:
    for done, query in enumerate(asked.queries.values(), start=1):
        scores = index.scores(query.text)
        found = [(owners[place], float(scores[place])) for place in np.flatnonzero(scores > 0).tolist()]
        yield query.id, asked.ranked(query.id, found)
        progress("search", done, len(asked.queries))
