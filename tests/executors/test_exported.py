"""What workers did is exported by the process that has the run, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import Document, ingest
from pipelines.executors.local import LocalExecutor
from tests.executors.light import POISON, LightConfig, LightEncoder
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.listening import Heard, heard

__all__ = ["heard"]


@pytest.mark.parametrize("served", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_run_of_workers_exports_what_its_report_says(
    local: LocalExecutor, heard: Heard, tmp_path: Path, request: pytest.FixtureRequest, served: bool
) -> None:
    store = request.getfixturevalue("double").url if served else tmp_path / "store"
    documents = [*edition(0), Document("bad", f"a text that is {POISON}", "bad.txt")]
    encoder = LightEncoder(LightConfig(folder=str(tmp_path)))
    first = ingest(documents, store, "notes", encoder, chunking=CHUNKING, executor=local)  # type: ignore[arg-type]
    second = ingest(edition(1), store, "notes", encoder, chunking=CHUNKING, executor=local, delete="all")  # type: ignore[arg-type]
    for outcome in ("added", "changed", "moved", "deleted", "unchanged"):
        expected = sum(getattr(report, f"documents_{outcome}") for report in (first, second))
        assert heard.total("kvembed.documents", kvembed__outcome=outcome) == expected, outcome
    assert heard.total("kvembed.documents", kvembed__outcome="quarantined", kvembed__stage="embed") == 1
    assert first.chunks_embedded + second.chunks_embedded > 50
    for origin in ("embedded", "reused"):
        expected = sum(getattr(report, f"chunks_{origin}") for report in (first, second))
        assert heard.total("kvembed.chunks", kvembed__chunk__origin=origin) == expected, origin
    assert heard.total("kvembed.tokens", kvembed__collection="notes") == first.tokens + second.tokens
    spent = first.seconds["embed"] + second.seconds["embed"]
    assert heard.total("kvembed.device.time") == pytest.approx(spent, abs=0.01)
