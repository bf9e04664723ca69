"""Documentation and dashboard name the metrics that are exported, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, Metric

from pipelines import ChunkingConfig, Document, ingest, telemetry
from pipelines.errors import StoreUnavailableError
from pipelines.retrying import RetryPolicy
from pipelines.signals import Signals
from tests.pipelines.fake_encoder import FakeEncoder, FakeEncoding
from tests.pipelines.listening import Heard, heard
from tests.server.double import Double

__all__ = ["heard"]

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana" / "kvembed.json").read_text(encoding="utf-8"))
TABLE = (DOCS / "observability.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.]+)` \| (counter|gauge|histogram), `([^`]+)` \| ((?:`[a-z_.]+`(?:, )?)+) \|", re.M)
# Words of PromQL, as they stand in the queries.
WORDS = {"time", "max", "sum", "by", "rate", "increase", "last_over_time", "histogram_quantile", "label_values"}


class Cutting(FakeEncoder):
    """Says that it cut a token off every text."""

    def encode_counted(self, texts: Any, role: str) -> FakeEncoding:
        found = super().encode_counted(texts, role)
        return FakeEncoding(found.vectors, found.tokens, found.tokens * 0 + 1)


def everything_once() -> None:
    """Let every metric have a value, and every attribute."""
    small = ChunkingConfig(max_tokens=12)
    documents = [Document(f"d{n}", f"word{n} tells of it.", f"{n}.txt") for n in range(4)]
    bad = Document("bad", "some poison here", "bad.txt")
    with Double() as double, double.store(grpc=False, policy=RetryPolicy(retries=2)) as store:
        double.faults.at(0, "unavailable")
        ingest([*documents, bad], store, "notes", Cutting(poison="poison"), chunking=small)
        renamed = [Document("other", documents[0].text, "o.txt"), *documents[1:]]
        ingest(renamed, store, "notes", Cutting(), chunking=small, delete="all")
        double.faults.always("unavailable", method="upsert")
        with pytest.raises(StoreUnavailableError):
            ingest(documents, store, "notes", Cutting(), chunking=small)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Metric]]:
    """What OpenTelemetry's exporter gives to Prometheus."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(telemetry, "_signals", Signals(None, meters))
    everything_once()
    yield list(registry.collect())
    meters.shutdown()


def queries() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return found + [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]


def names_in(query: str) -> set[str]:
    """Names of metrics, and of the labels that they are selected and grouped by."""
    plain = re.sub(r'"[^"]*"|\[[^]]*\]|\$\w+', " ", query)
    return {word for word in re.findall(r"[a-z_][a-z0-9_]*", plain)} - WORDS


def test_dashboard_asks_for_what_is_exported(exported: list[Metric]) -> None:
    samples = [sample for metric in exported for sample in metric.samples]
    metrics = {sample.name for sample in samples}
    labels = {label for sample in samples for label in sample.labels}
    asked = set().union(*map(names_in, queries()))
    assert asked <= metrics | labels, f"nothing exports {sorted(asked - metrics - labels)}"
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics if not name.endswith("_created")}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked & metrics}
    assert shown == families, f"the dashboard shows nothing of {sorted(families - shown)}"


def test_dashboard_is_one_that_grafana_imports() -> None:
    """What its importer demands: a title, panels with ids of their own, a place and a data source each."""
    assert DASHBOARD["title"] == "kvembed"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) > 10
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    taken = [(at["x"] + x, at["y"] + y) for at in places for x in range(at["w"]) for y in range(at["h"])]
    assert len(taken) == len(set(taken)), "panels lie on each other"


def test_table_of_metrics_is_what_is_exported(heard: Heard) -> None:
    everything_once()
    rows = {name: (kind, unit, set(re.findall(r"[a-z_.]+", by))) for name, kind, unit, by in ROW.findall(TABLE)}
    kinds = {"Sum": "counter", "Gauge": "gauge", "Histogram": "histogram"}
    found = {
        name: (
            kinds[type(metric.data).__name__],
            metric.unit,
            {key for point in metric.data.data_points for key in point.attributes or {}},
        )
        for name, metric in heard.metrics().items()
    }
    assert rows == found
