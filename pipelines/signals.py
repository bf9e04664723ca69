"""The metrics that a run exports: names, units and what each one counts.

Names of OpenTelemetry's semantic conventions where there are any (`db.*`, `error.type`), `kvembed.*` where not; units
are UCUM. The interface is OpenTelemetry's API, which does nothing until an SDK is configured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import TracerProvider

SCOPE = "kvembed"
COLLECTION = "kvembed.collection"
OUTCOME = "kvembed.outcome"

# What the conventions advise for database calls; the SDK's own boundaries are meant for milliseconds.
_CALL_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_RUN_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)


class Signals:
    """One tracer and all instruments.

    Args:
        tracers: Where spans go; None takes the global provider, also one that is set later.
        meters: The same for measurements.
    """

    def __init__(self, tracers: TracerProvider | None = None, meters: MeterProvider | None = None) -> None:
        self.tracer = trace.get_tracer(SCOPE, tracer_provider=tracers)
        meter = metrics.get_meter(SCOPE, meter_provider=meters)
        self._good_until: dict[str, float] = {}
        self.documents = meter.create_counter(
            "kvembed.documents", "{document}", "Documents that a run is through with, by what became of them"
        )
        self.quarantined = meter.create_gauge(
            "kvembed.documents.in_quarantine",
            "{document}",
            "Documents without a searchable present form, at a run's end",
        )
        self.chunks = meter.create_counter(
            "kvembed.chunks", "{chunk}", "Chunks embedded, and chunks that kept their vector"
        )
        self.tokens = meter.create_counter("kvembed.tokens", "{token}", "Tokens that went through the model")
        self.truncated = meter.create_counter(
            "kvembed.tokens.truncated", "{token}", "Content tokens that were cut off chunks to fit"
        )
        self.device_time = meter.create_counter(
            "kvembed.device.time", "s", "Time that devices were held for encoding; two devices count twice"
        )
        self.retries = meter.create_counter(
            "kvembed.store.retries", "{retry}", "Calls made again because the store did not answer"
        )
        self.calls = meter.create_histogram(
            "db.client.operation.duration",
            "s",
            "Duration of database client operations",
            explicit_bucket_boundaries_advisory=_CALL_SECONDS,
        )
        self.runs = meter.create_histogram(
            "kvembed.run.duration", "s", "Duration of runs", explicit_bucket_boundaries_advisory=_RUN_SECONDS
        )
        self.last_success = meter.create_gauge(
            "kvembed.run.last_success", "s", "Time at which the last good run ended, in seconds since 1970"
        )
        meter.create_observable_gauge(
            "kvembed.run.lag", [self._lags], "s", "Time since the last good run ended, as far as this process knows"
        )

    def good_until(self, collection: str, moment: float) -> None:
        """Note when a good run into a collection ended.

        Args:
            collection: Name.
            moment: Seconds since 1970; earlier ones than known change nothing.
        """
        latest = self._good_until[collection] = max(moment, self._good_until.get(collection, moment))
        self.last_success.set(latest, {COLLECTION: collection})

    def _lags(self, options: CallbackOptions) -> Iterable[Observation]:
        moment = time.time()
        return [Observation(moment - good, {COLLECTION: name}) for name, good in self._good_until.items()]
