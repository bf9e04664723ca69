"""OpenTelemetry's own SDK, configured by its own environment variables, where these ask for an exporter.

The extra `[otel]` brings it. What `opentelemetry-instrument` or the program around us has configured is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.errors import TerminalError
from pipelines.settings import name_service, telemetry_is_wanted

_FLUSH_MILLISECONDS = 10_000
_TALKATIVE = "opentelemetry.instrumentation.auto_instrumentation"


@contextmanager
def exporting(note: Callable[[str], None]) -> Iterator[None]:
    """Export what happens inside, and send what waits before leaving.

    Args:
        note: Told when an exporter is asked for and the SDK is not installed.

    Raises:
        TerminalError: the variables name what the SDK does not have.
    """
    if not telemetry_is_wanted():
        yield
        return
    from opentelemetry import metrics, trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _configure(note)
    try:
        yield
    finally:
        for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
            flush = getattr(provider, "force_flush", None)  # the API's providers, which do nothing, have none
            if flush is not None:
                flush(_FLUSH_MILLISECONDS)


def _configure(note: Callable[[str], None]) -> None:
    try:
        from opentelemetry.instrumentation.auto_instrumentation import initialize
    except ImportError:
        note("an OpenTelemetry exporter is asked for (OTEL_*) and not installed: pip install 'kvembed[otel]'")
        return
    name_service()
    try:
        with _silent(_TALKATIVE, f"{_TALKATIVE}._load"):
            initialize(swallow_exceptions=False)
    except Exception as error:  # RuntimeError, ValueError, what a distro's own code raises
        raise TerminalError(
            f"OpenTelemetry cannot be configured as its variables (OTEL_*) say: {error}; correct them, "
            "or set OTEL_SDK_DISABLED=true"
        ) from error


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Keep tracebacks off the log that come before an error which is reported once."""
    loggers = [logging.getLogger(name) for name in names]
    for one in loggers:
        one.disabled = True
    try:
        yield
    finally:
        for one in loggers:
            one.disabled = False
