"""The demonstration: index text that every machine has, ask plain questions, count how many are answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from kvembed.models import DEMO_MODEL
from pipelines.errors import JSON, EncoderMismatchError
from pipelines.retrieval import open_collection
from pipelines.runners import find_runner
from pipelines.settings import load_settings
from pipelines.stdlib_docs import write_stdlib_documents
from pipelines.store import open_store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.pinned import PinnedCollection
    from pipelines.report import IngestReport, Progress, SearchHit
    from pipelines.runners import Runner
Layers: TypeAlias = Literal["auto"] | tuple[int, ...]

COLLECTION = "python-stdlib"
"""Filled with the layers that TwoNN chooses."""
PLAIN_COLLECTION = "python-stdlib-plain"
"""The same documents and model without re-routing, to compare with."""
_PLANS: tuple[tuple[str, Layers], ...] = ((COLLECTION, "auto"), (PLAIN_COLLECTION, ()))
DEPTH = 5
"""A question counts as answered when a right module is among so many first modules."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question in plain English, and the modules that answer it; labelled by hand, before any model was asked."""

    question: str
    modules: frozenset[str]
    shown: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What one collection found for a question."""

    question: Question
    hits: tuple[SearchHit, ...]
    """Best chunk of each of the first modules, best first."""

    @property
    def found(self) -> bool:
        """A right module is among the hits."""
        return any(module_of(hit.document_id) in self.question.modules for hit in self.hits)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration did and found.

    Attributes:
        documents: Folder the modules' documentation was written to.
        store: Where the two collections are.
        report: Of the run with re-routing.
        plain_report: Of the run without.
        answers: With re-routing, in the order of the questions.
        plain_answers: Without.
        seconds: Stage -> seconds, of this run.
    """

    documents: str
    store: str
    report: IngestReport
    plain_report: IngestReport
    answers: tuple[Answer, ...]
    plain_answers: tuple[Answer, ...]
    seconds: Mapping[str, float]

    @property
    def hit_rate(self) -> float:
        """Share of questions answered with re-routing."""
        return _share(self.answers)

    @property
    def plain_hit_rate(self) -> float:
        """Share of questions answered without."""
        return _share(self.plain_answers)

    def to_dict(self) -> dict[str, JSON]:
        """Return everything as JSON values."""
        return {
            "collection": self.report.collection,
            "store": self.store,
            "documents": self.documents,
            "questions": len(self.answers),
            f"hit@{DEPTH}": self.hit_rate,
            f"hit@{DEPTH}_without_rerouting": self.plain_hit_rate,
            "layers": list(self.report.layers),
            "tokens": self.report.tokens,
            "seconds": dict(self.seconds),
            "ingest": self.report.to_dict(),
            "ingest_without_rerouting": self.plain_report.to_dict(),
            "answers": [_record(one, other) for one, other in zip(self.answers, self.plain_answers, strict=True)],
        }


def run_demo(store: str | None = None, *, device: str | None = None, progress: Progress | None = None) -> DemoResult:
    """Index the standard library's documentation through the flow, twice, and ask the questions.

    What is indexed already stays as it is, so a second run embeds nothing but the questions.

    Args:
        store: Folder of an embedded store, or URL; None takes the one of the settings.
        device: torch device; None takes CUDA if there is any, else the CPU.
        progress: Told about every stage.

    Raises:
        SourceError: this Python came without its library's sources.
        TerminalError: the flow is not installed.
    """
    place = store or load_settings().default_store()
    watch = _Stopwatch()
    documents = load_settings().cache_dir.expanduser() / "python-stdlib"
    tell = progress or _nobody
    tell("documents", 0, None)
    write_stdlib_documents(documents)
    watch.lap("documents")
    tell("start", 0, None)
    run = find_runner()
    watch.lap("load_flow")
    reports = []
    for name, layers in _PLANS:
        reports.append(_index(run, str(documents), place, name, layers, device, progress))
        watch.lap("index" if layers else "index_without_rerouting")
    tell("ask", 0, None)
    questions = read_questions()
    with (
        open_store(place, create=False) as opened,
        open_collection(opened, COLLECTION, device=device) as routed,
        open_collection(opened, PLAIN_COLLECTION, encoder=routed.encoder.with_layers(())) as unrouted,
    ):
        answers, plain = _ask(routed.pinned(), questions), _ask(unrouted.pinned(), questions)
    watch.lap("ask")
    return DemoResult(str(documents), place, reports[0], reports[1], answers, plain, watch.laps)


def _index(
    run: Runner, documents: str, store: str, name: str, layers: Layers, device: str | None, progress: Progress | None
) -> IngestReport:
    try:
        return run(documents, store, name, DEMO_MODEL, layers=layers, delete="all", device=device, progress=progress)
    except EncoderMismatchError as error:
        advice = "another version of the bundled model filled it; give the demo a new --store"
        raise EncoderMismatchError(error.collection, error.differences, advice) from error


def read_questions() -> list[Question]:
    """Read the labelled questions that come with the package."""
    records = json.loads(files("pipelines").joinpath("demo_questions.json").read_text(encoding="utf-8"))
    return [Question(record["question"], frozenset(record["modules"]), bool(record.get("show"))) for record in records]


def module_of(document_id: str) -> str:
    """Return the module a document describes: its id is the name of a Markdown file."""
    return document_id.removesuffix(".md")


def best_documents(pinned: PinnedCollection, vector: NDArray[np.float32], limit: int) -> tuple[SearchHit, ...]:
    """Find the documents nearest to a query, each by its best chunk.

    Args:
        pinned: Collection.
        vector: (E,) float32, the query's, by its encoder.
        limit: Documents wanted.
    """
    chunks = 8 * limit
    while True:
        hits = pinned.nearest(vector, chunks)
        best: dict[str, SearchHit] = {}
        for hit in hits:
            best.setdefault(hit.document_id, hit)
        if len(best) >= limit or len(hits) < chunks:
            return tuple(best.values())[:limit]
        chunks *= 4


def _ask(pinned: PinnedCollection, questions: Sequence[Question]) -> tuple[Answer, ...]:
    vectors = pinned.encoder.encode_query([question.question for question in questions])
    return tuple(
        Answer(question, best_documents(pinned, vector, DEPTH))
        for question, vector in zip(questions, vectors, strict=True)
    )


def _share(answers: Sequence[Answer]) -> float:
    return sum(answer.found for answer in answers) / max(len(answers), 1)


def _record(answer: Answer, plain: Answer) -> dict[str, JSON]:
    return {
        "question": answer.question.question,
        "right": sorted(answer.question.modules),
        "found": answer.found,
        "modules": [module_of(hit.document_id) for hit in answer.hits],
        "found_without_rerouting": plain.found,
        "modules_without_rerouting": [module_of(hit.document_id) for hit in plain.hits],
    }


def _nobody(stage: str, done: int, total: int | None) -> None:
    """Progress where nobody looks."""


class _Stopwatch:
    """Seconds between one lap and the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
