"""An OpenTelemetry SDK that keeps what it hears in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipelines import telemetry
from pipelines.signals import Signals


class Heard:
    """What was exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self._tracers = TracerProvider(shutdown_on_exit=False)
        self._tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.signals = Signals(self._tracers, self._meters)

    def close(self) -> None:
        self._tracers.shutdown()
        self._meters.shutdown()

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if name in ("", span.name)]

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def total(self, name: str, **wanted: Any) -> float:
        """Sum of a counter, value of a gauge, or count of a histogram, over the points with these attributes."""
        known = {key.replace("__", "."): value for key, value in wanted.items()}
        points = self.metrics()[name].data.data_points if name in self.metrics() else ()
        fitting = [point for point in points if known.items() <= _attributes(point).items()]
        return sum(point.count if isinstance(point, HistogramDataPoint) else point.value for point in fitting)


def _attributes(point: Any) -> Mapping[str, Any]:
    return dict(point.attributes)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """Listen for the length of a test."""
    found = Heard()
    monkeypatch.setattr(telemetry, "_signals", found.signals)
    yield found
    found.close()
