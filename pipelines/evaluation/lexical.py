"""BM25 by bm25s, over the chunks that the encoders embed or over whole documents."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipelines.chunking import CHUNKING_FAILURES, Chunker
from pipelines.documents import Document
from pipelines.errors import JSON, TerminalError
from pipelines.evaluation.memory import measured_memory
from pipelines.evaluation.systems import CostFigures, Ranking, System, scored_system
from pipelines.report import Progress, silent
from pipelines.sources import open_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.evaluation.tasks import EvaluationTask

Cut: TypeAlias = "Callable[[Document], Iterable[str]]"
"""A document -> the texts that are indexed of it."""


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

    whose = encoder.bare().with_layers(()).identity()
    unit: dict[str, JSON] = {
        "unit": "chunk",
        "chunk_tokens": chunker.budget,
        "tokenizer_sha256": whose["tokenizer_sha256"],
    }
    return _system("bm25", task, cut, unit, chunking.to_dict(), progress or silent)


def bm25_of_documents(task: EvaluationTask, progress: Progress | None = None) -> System:
    """Rank whole documents under BM25, title and text as one; takes and raises what `bm25_of_chunks` does."""

    def whole(document: Document) -> Iterator[str]:
        yield f"{document.title}\n{document.text}"

    return _system("bm25-documents", task, whole, {"unit": "document"}, {}, progress or silent)


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


def _system(
    name: str,
    task: EvaluationTask,
    cut: Cut,
    unit: Mapping[str, JSON],
    chunking: Mapping[str, JSON],
    progress: Progress,
) -> System:
    config = BM25Config()
    identity = {**config.identity(), **unit}
    with measured_memory() as peak:
        started = time.perf_counter()
        owners, texts, quarantined = _units(task, cut, progress)
        cut_at = time.perf_counter()
        index = BM25Index(texts, config)
        indexed = time.perf_counter()
        rankings = dict(_rankings(task, index, owners, progress))
        searched = time.perf_counter()
    figures = CostFigures(
        chunks=len(texts),
        documents_quarantined=quarantined,
        peak_memory_bytes=peak.process,
        peak_device_memory_bytes=peak.device,
        seconds={"chunk": cut_at - started, "index": indexed - cut_at, "rank": searched - indexed},
    )
    fingerprint = hashlib.sha256(json.dumps([identity, dict(chunking)], sort_keys=True).encode("utf-8")).hexdigest()
    return scored_system(
        name, task.queries, rankings, identity=identity, fingerprint=fingerprint, chunking=chunking, figures=figures
    )


def _units(task: EvaluationTask, cut: Cut, progress: Progress) -> tuple[list[str], list[str], int]:
    """Return the document of each text that is indexed, the texts, and how many documents could not be cut."""
    owners: list[str] = []
    texts: list[str] = []
    quarantined = 0
    source = open_source(str(task.corpus), id_field="_id", text_field="text", title_field="title")
    for done, document in enumerate(source.documents(), start=1):
        try:
            pieces = list(cut(document)) if isinstance(document, Document) else None
        except CHUNKING_FAILURES:
            pieces = None
        quarantined += pieces is None
        texts += pieces or ()
        owners += [document.id] * len(pieces or ())
        progress("chunk", done, task.counts.documents)
    return owners, texts, quarantined


def _rankings(
    task: EvaluationTask, index: BM25Index, owners: Sequence[str], progress: Progress
) -> Iterator[tuple[str, Ranking]]:
    for done, query in enumerate(task.queries.values(), start=1):
        scores = index.scores(query.text)
        found = [(owners[place], float(scores[place])) for place in np.flatnonzero(scores > 0).tolist()]
        yield query.id, task.ranked(query.id, found)
        progress("search", done, len(task.queries))
