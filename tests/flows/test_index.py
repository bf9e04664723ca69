"""The flow does what `pipelines.ingest` does, retries what may pass, and records the run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.exceptions import ParameterTypeError
from prefect.settings import get_current_settings, temporary_settings

import kvembed
import pipelines
from flows import index, index_corpus, run_index
from flows.index import IndexOptions
from flows.local_api import prefect_api
from pipelines import ChunkingConfig, DeletionGuard, IngestReport
from pipelines.errors import CollectionBusyError, LeaseLostError, SourceError, StoreUnavailableError, TransientError
from pipelines.options import IngestOptions
from pipelines.storage import StorageConfig


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(["gzip compresses files", "argparse reads options", "csv writes tables"]):
        (folder / f"{number}.txt").write_text(text)
    return folder


def recorded_run(name):
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[f"index-{name}"])))
        return run


def artifact(key):
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
        return found


def test_run_index_real_corpus_returns_report_and_records_it(api, run_history, corpus, tmp_path, tiny_model_dir):
    """Contract: what the flow returns is `ingest`'s report, and no vector and no result reaches Prefect."""
    steps = []
    report = run_index(
        str(corpus),
        str(tmp_path / "store"),
        "Flow_Test",
        str(tiny_model_dir),
        layers=(1,),
        chunking=ChunkingConfig(max_tokens=64),
        device="cpu",
        progress=lambda stage, done, total: steps.append(stage),
    )
    assert isinstance(report, IngestReport)
    assert (report.documents_added, report.documents_quarantined) == (3, 0)
    assert "embed" in steps
    run = recorded_run("Flow_Test")
    assert run.state is not None
    assert run.state.is_completed()
    assert run.state.data is None or not getattr(run.state.data, "storage_key", None)
    assert run.parameters["layers"] == [1]
    assert run.parameters["chunking"] == ChunkingConfig(max_tokens=64).to_dict()
    assert len(json.dumps(run.parameters)) < 1500
    assert not any((run_history / "storage").glob("**/*"))
    published = artifact("index-flow-test")
    assert "| documents_added | 3 |" in published.data


REPORT = SimpleNamespace(to_dict=lambda: {"collection": "docs"})


def attempts_of(monkeypatch, errors):
    """Replace ingestion by one that raises `errors` in turn and then succeeds; return the list it notes calls in."""
    calls = []

    def ingest(*args, **kwargs):
        calls.append(args)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return REPORT

    monkeypatch.setattr(pipelines, "ingest", ingest)
    monkeypatch.setattr(pipelines, "open_source", lambda source, **fields: source)
    monkeypatch.setattr(kvembed, "KVEncoder", lambda config, device: None)
    monkeypatch.setattr(index.ingest_source, "retry_delay_seconds", [0.0, 0.0, 0.0])
    return calls


def test_run_index_transient_error_is_tried_again(api, monkeypatch):
    passing = [
        StoreUnavailableError("no answer"),
        CollectionBusyError("retried", "a run on another machine"),
        LeaseLostError("retried", "a run on another machine"),
    ]
    calls = attempts_of(monkeypatch, passing)
    assert run_index("docs", "http://qdrant", "retried", "kvembed/demo") is REPORT
    assert len(calls) == 4


def test_run_index_terminal_error_fails_at_once_with_its_message(api, monkeypatch):
    calls = attempts_of(monkeypatch, [SourceError("nothing to index in docs; pass another folder")])
    with pytest.raises(SourceError, match="nothing to index in docs; pass another folder"):
        run_index("docs", "store", "hopeless", "kvembed/demo")
    assert len(calls) == 1
    run = recorded_run("hopeless")
    assert run.state is not None
    assert run.state.is_failed()
    assert "nothing to index in docs" in (run.state.message or "")


def test_ingest_source_encoder_fields_reach_the_encoder(monkeypatch):
    """`--flow` must build the encoder that the direct call builds, or the collection rebuilds itself."""
    attempts_of(monkeypatch, [])
    seen = []
    monkeypatch.setattr(kvembed, "KVEncoder", lambda config, device: seen.append((config, device)))
    index.ingest_source.fn(
        "s", "st", "n", "m", (2, 3), {"prefix_bias": 0.5, "layers": "auto"}, None, "all", IndexOptions(), None, "cpu"
    )
    ((config, device),) = seen
    assert (config.model, config.layers, config.prefix_bias, device) == ("m", (2, 3), 0.5, "cpu")


def test_run_index_options_reach_ingest(api, monkeypatch):
    given = {}
    monkeypatch.setattr(pipelines, "ingest", lambda *args, **kwargs: given.update(kwargs) or REPORT)
    monkeypatch.setattr(pipelines, "open_source", lambda source, **fields: source)
    monkeypatch.setattr(kvembed, "KVEncoder", lambda config, device: None)
    options = {
        "guard": {"share": 0.5, "count": 7},
        "on_change": "refuse",
        "wait": 3,
        "retry_quarantined": True,
        "max_quarantined": 4,
        "adopt": True,
        "storage": {"on_disk": True, "quantization": "scalar"},
    }
    run_index("docs", "store", "optional", "kvembed/demo", delete="all", options=options)
    assert {name: given[name] for name in (*options, "delete")} == {
        **options,
        "delete": "all",
        "guard": DeletionGuard(share=0.5, count=7),
        "storage": StorageConfig(on_disk=True, quantization="scalar"),
    }
    recorded = recorded_run("optional").parameters["options"]
    assert recorded["guard"] == {"free": 5, "share": 0.5, "count": 7}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"waiting": 3}, "waiting"),
        ({"guard": {"part": 0.5}}, "part"),
        ({"guard": {"share": 20}}, "share is from 0 to 1"),
        ({"on_change": "ask"}, "'rebuild' or 'refuse'"),
        ({"max_quarantined": -1}, "greater than or equal to 0"),
        ({"storage": {"quantization": "heavy"}}, "'none', 'scalar' or 'binary'"),
    ],
)
def test_index_corpus_wrong_option_is_refused_before_the_run(api, monkeypatch, options, words):
    """A deployment's parameters are JSON that nobody has looked at: a misspelt guard must not become the default."""
    calls = attempts_of(monkeypatch, [])
    with pytest.raises((ValueError, ParameterTypeError), match=re.escape(words)):
        index_corpus(source="docs", store="store", name="wrong", model="kvembed/demo", options=options)
    assert calls == []


def test_index_options_are_those_of_ingest():
    """Two lists of options drift apart unless something compares them."""
    ours = {name: field.get_default() for name, field in IndexOptions.model_fields.items()}
    theirs = asdict(IngestOptions()) | {"guard": DeletionGuard()}
    assert ours == {name: value for name, value in theirs.items() if name != "delete"}


def test_index_corpus_parameters_are_json_in_their_schema():
    properties = index_corpus.parameters.properties
    assert set(properties) >= {"source", "store", "name", "model", "layers", "delete", "options"}
    assert json.loads(json.dumps(properties)) == properties


def test_report_markdown_escapes_what_would_break_the_table():
    lines = index._as_markdown({"reason": "a|b\nc", "seconds": {"embed": 1.234}, "bad": [{"id": "x", "why": "y"}]})
    assert lines.splitlines()[2:] == ["| reason | a\\|b c |", "| seconds: embed | 1.23 |", "| bad | x · y |"]


def test_prefect_api_configured_url_starts_no_server(api):
    """Someone with a Prefect server wants the record there, and nowhere else."""
    assert get_current_settings().api.url == api
    before = threading.active_count()
    with prefect_api() as url:
        assert url == api
        assert threading.active_count() == before


def test_prefect_api_unreachable_url_names_the_setting():
    with (
        temporary_settings({"api.url": "http://127.0.0.1:9/api"}),
        pytest.raises(TransientError, match=r"127\.0\.0\.1 does not answer .* unset PREFECT_API_URL"),
        prefect_api(),
    ):
        raise AssertionError("an API on the discard port")


def test_prefect_api_own_settings_send_no_telemetry_and_wait_two_minutes(tmp_path):
    """Away from this repository, whose pyproject.toml says the same and would hide what is missing in the code."""
    script = """
from pathlib import Path
from prefect.exceptions import ParameterTypeError
from prefect.settings import get_current_settings, temporary_settings
from flows.local_api import _own_settings
before = get_current_settings().server
with temporary_settings(set_defaults=_own_settings(Path("."))):
    own = get_current_settings().server
print(before.analytics_enabled, own.analytics_enabled, own.ephemeral.startup_timeout_seconds)
"""
    python = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert python.stdout.split() == ["True", "False", "120"]
