"""Log records as JSON, one object a line, with the run, collection, stage and trace that each belongs to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TextIO

from opentelemetry import trace

from pipelines.run_context import current_run

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = ("kvembed", "pipelines", "flows")
"""Loggers of this package."""


def levels(verbosity: int) -> tuple[int, ...]:
    """Return the least level that is logged, by all others and then by each of `OURS`."""
    others = (logging.WARNING, logging.WARNING, logging.INFO)[min(verbosity, 2)]
    return (others, *[logging.DEBUG if verbosity else logging.INFO for _ in OURS])


def json_lines(stream: TextIO) -> logging.Handler:
    """Return a handler that writes `timestamp`, `level`, `logger`, `message`, and what else a record has.

    `run_id`, `collection` and `stage` come from the run that goes on, `trace_id` and `span_id` from its span if one is
    recorded; `document_id`, counts and seconds from the record.

    Args:
        stream: Gets a line for each record, in UTF-8's ASCII part: no text of a document can break a line.
    """
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        JsonFormatter(
            ("levelname", "name", "message"),
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp=True,
            json_ensure_ascii=True,
        )
    )
    handler.addFilter(_annotate)
    return handler


def _annotate(record: logging.LogRecord) -> bool:
    """Add what the moment knows; a record's own word stands."""
    for key, value in _known().items():
        if key not in record.__dict__:
            record.__dict__[key] = value
    return True


def _known() -> Mapping[str, str]:
    run, span = current_run(), trace.get_current_span().get_span_context()
    known: dict[str, str] = {}
    if run is not None:
        known |= {"run_id": run.run_id, "collection": run.collection}
        known |= {"stage": run.stage} if run.stage else {}
    if span.is_valid:
        known |= {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}
    return known
