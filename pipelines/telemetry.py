"""What a run does, told to OpenTelemetry and to the log, from the few places where it is known.

Nobody need listen: without an SDK the spans and measurements are those of OpenTelemetry's API, which do nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, Status, StatusCode

from pipelines.run_context import current_run, in_stage, new_run
from pipelines.signals import COLLECTION, OUTCOME, Signals

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from kvembed import KVEncoder
    from pipelines.report import IngestReport, QuarantinedDocument

_log = logging.getLogger(__name__)
_signals = Signals()

_FIGURES = (
    "documents_added",
    "documents_changed",
    "documents_moved",
    "documents_unchanged",
    "documents_deleted",
    "documents_quarantined",
    "chunks_embedded",
    "chunks_reused",
    "tokens",
)


@dataclass(slots=True, eq=False)
class Told:
    """What a run leaves to be told."""

    report: IngestReport | None = None


@contextmanager
def indexing(name: str, source: str) -> Iterator[Told]:
    """Surround a run, which leaves its report in what is yielded.

    Args:
        name: Collection.
        source: Its description.
    """
    started, told = time.perf_counter(), Told()
    with new_run(name) as run, _span("kvembed.index", {COLLECTION: name, "kvembed.run.id": run.run_id}) as span:
        span.set_attribute("kvembed.source", source)
        _log.info("run started: %s", source)
        try:
            yield told
        except BaseException as error:
            outcome = "failed" if isinstance(error, Exception) else "stopped"
            span.set_attribute(OUTCOME, outcome)
            labels = {OUTCOME: outcome, "error.type": type(error).__name__}
            _signals.runs.record(time.perf_counter() - started, _of_run(labels))
            # Whoever called may try again, and says so where it is an error in the end.
            _log.warning("run %s: %s", outcome, error, extra={"error_type": type(error).__name__})
            raise
        if told.report is not None:
            _finished(span, told.report, time.perf_counter() - started)


def last_good_runs(name: str, moments: Iterable[str]) -> None:
    """Take note of when good runs ended, so that a run which fails exports it too.

    Args:
        name: Collection.
        moments: UTC, ISO 8601; "" of a run that came to no end.
    """
    for moment in filter(None, moments):
        _signals.good_until(name, datetime.fromisoformat(moment).timestamp())


def _finished(span: Span, report: IngestReport, seconds: float) -> None:
    outcome = _outcome(report)
    figures = {name: getattr(report, name) for name in _FIGURES}
    span.set_attributes({OUTCOME: outcome, **{f"kvembed.{name}": value for name, value in figures.items()}})
    _signals.runs.record(seconds, _of_run({OUTCOME: outcome}))
    _count(_signals.documents, report.documents_unchanged, {OUTCOME: "unchanged"})
    _signals.quarantined.set(report.documents_quarantined, _of_run())
    _signals.good_until(report.collection, time.time())
    _log.info("run finished: %s", outcome, extra={"seconds": round(seconds, 3), **figures})


def _outcome(report: IngestReport) -> str:
    if report.documents_quarantined:
        return "quarantined"
    wrote = report.points_written or report.points_updated or report.points_deleted or report.documents_deleted
    return "done" if wrote or report.rebuilt else "unchanged"


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Surround one stage of a run: plan, prepare, write, verify; a run may write several times."""
    started = time.perf_counter()
    with in_stage(name), _span(f"kvembed.{name}", _of_run()):
        yield
        seconds = time.perf_counter() - started
        _log.info("%s: %.1f s", name, seconds, extra={"seconds": round(seconds, 3)})


@dataclass(slots=True, eq=False)
class Encoded:
    """What a call of the encoder did, filled in by who knows it."""

    chunks: int = 0
    tokens: int = 0


@contextmanager
def encoding(encoder: KVEncoder) -> Iterator[Encoded]:
    """Surround the encoding of some chunks; time counts also where it fails."""
    started, done = time.perf_counter(), Encoded()
    model = encoder.config.model
    known = {"gen_ai.operation.name": "embeddings", "gen_ai.provider.name": "kvembed", "gen_ai.request.model": model}
    with _span(f"embeddings {model}", known) as span:
        try:
            yield done
        finally:
            held = (time.perf_counter() - started) * len(encoder.devices)
            _count(_signals.device_time, held, {"kvembed.device.type": encoder.devices[0].type})
            _count(_signals.chunks, done.chunks, {"kvembed.chunk.origin": "embedded"})
            _count(_signals.tokens, done.tokens)
            span.set_attributes({"gen_ai.usage.input_tokens": done.tokens, "kvembed.chunks": done.chunks})
            span.set_attribute("gen_ai.embeddings.dimension.count", encoder.dimension)


@contextmanager
def store_call(client: object, operation: Callable[..., object], given: Sequence[object]) -> Iterator[None]:
    """Surround one request to the store.

    Args:
        client: Its own methods take a collection's name first; what else is called may take what a person typed first.
        operation: What is called.
        given: Its arguments.
    """
    title = name = getattr(operation, "__name__", type(operation).__name__)
    known: dict[str, AttributeValue] = {"db.system.name": "qdrant", "db.operation.name": name}
    if given and isinstance(given[0], str) and getattr(operation, "__self__", None) is client:
        known["db.collection.name"] = given[0]
        title = f"{name} {given[0]}"
    started = time.perf_counter()
    with _span(title, known, SpanKind.CLIENT):
        try:
            yield
        except BaseException as error:
            known["error.type"] = type(error).__name__
            raise
        finally:
            _signals.calls.record(time.perf_counter() - started, known)


def committed(outcome: str, *, reused: int, truncated: int) -> None:
    """Count a document that is searchable now.

    Args:
        outcome: added, changed or moved.
        reused: Its chunks that kept their vector.
        truncated: Content tokens that were cut off its chunks.
    """
    _count(_signals.documents, 1, {OUTCOME: outcome})
    _count(_signals.chunks, reused, {"kvembed.chunk.origin": "reused"})
    _count(_signals.truncated, truncated)


def worked(seconds: float, *, chunks: int, tokens: int, reused: int, truncated: int) -> None:
    """Count what a worker in another process embedded, which does not know the run.

    Args:
        seconds: It held its device for.
        chunks: Embedded.
        tokens: The same.
        reused: Chunks that kept their vector.
        truncated: Content tokens that were cut off.
    """
    _count(_signals.device_time, seconds)
    _count(_signals.chunks, chunks, {"kvembed.chunk.origin": "embedded"})
    _count(_signals.chunks, reused, {"kvembed.chunk.origin": "reused"})
    _count(_signals.tokens, tokens)
    _count(_signals.truncated, truncated)


def deleted(documents: int) -> None:
    """Count documents that are no longer searchable, for they are gone from the source."""
    _count(_signals.documents, documents, {OUTCOME: "deleted"})


def quarantined(found: QuarantinedDocument) -> None:
    """Count a document whose present form could not be indexed, and log why."""
    _count(_signals.documents, 1, {OUTCOME: "quarantined", "kvembed.stage": found.stage})
    known = {"document_id": found.document_id, "stage": found.stage, "source": found.source}
    _log.warning("quarantined %r: %s", found.document_id, found.reason, extra=known)


def retried() -> None:
    """Count a request to the store that is made again."""
    _signals.retries.add(1, _of_run({"db.system.name": "qdrant"}))


@contextmanager
def _span(name: str, known: Mapping[str, AttributeValue], kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """Surround with a span that says what went wrong, if anything does; Ctrl-C and SIGTERM too."""
    with _signals.tracer.start_as_current_span(
        name, kind=kind, attributes=known, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise


def _count(counter: Counter, amount: float, known: Mapping[str, AttributeValue] | None = None) -> None:
    """Add to what a run has done; what is done outside of one, such as a verification, is no run's work."""
    if amount and current_run() is not None:
        counter.add(amount, _of_run(known))


def _of_run(known: Mapping[str, AttributeValue] | None = None) -> dict[str, AttributeValue]:
    """Add the collection to the attributes of a measurement."""
    run = current_run()
    return {**(known or {}), COLLECTION: run.collection} if run is not None else {**(known or {})}
