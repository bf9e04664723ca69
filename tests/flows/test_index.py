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

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.settings import get_current_settings, temporary_settings

from flows import index_corpus, run_index, stages
from flows.index import IndexOptions
from flows.local_api import prefect_api
from pipelines import ChunkingConfig, DeletionGuard, IngestReport
from pipelines.errors import CollectionBusyError, LeaseLostError, SourceError, StoreUnavailableError, TransientError
from pipelines.options import IngestOptions
from pipelines.storage import StorageConfig
from tests.flows.sessions import REPORT, artifact, recorded_run, recorded_tasks, scripted

OTHER_STAGES = 3  # plan, verify, promote


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(["gzip compresses files", "argparse reads options", "csv writes tables"]):
        (folder / f"{number}.txt").write_text(text)
    return folder


def test_run_index_real_corpus_returns_report_and_records_it(api, run_history, corpus, tmp_path, tiny_model_dir):
    """Contract: what the flow returns is `ingest`'s report, and no vector and no result reaches Prefect."""
    (corpus / "bad.txt").write_bytes(b"\xff\x00\xfe")
    stored_before = set((run_history / "storage").glob("**/*"))
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
    assert (report.documents_added, report.documents_quarantined) == (3, 1)
    assert "embed" in steps
    run = recorded_run("index-Flow_Test")
    assert run.state is not None
    assert run.state.is_completed()
    assert run.state.data is None or not getattr(run.state.data, "storage_key", None)
    assert run.parameters["layers"] == [1]
    assert run.parameters["chunking"] == ChunkingConfig(max_tokens=64).to_dict()
    assert len(json.dumps(run.parameters)) < 1500
    assert set((run_history / "storage").glob("**/*")) == stored_before
    names = [task.name.rpartition("-")[0] or task.name for task in recorded_tasks(run, 4)]
    assert sorted(names) == ["plan", "promote", "shards 1 of 1", "verify"]
    figures = {row["figure"]: row["value"] for row in json.loads(artifact("index-flow-test").data)}
    assert (figures["documents_added"], figures["layers"]) == (3, "1")
    ((row),) = json.loads(artifact("quarantine-flow-test").data)
    assert row["document"] == f"[bad.txt](<{(corpus / 'bad.txt').resolve().as_uri()}>)"
    assert row["stage"] == "parse"
    assert artifact("progress-flow-test").data == 100.0


def test_run_index_transient_error_of_a_stage_is_tried_again_in_that_stage(api, monkeypatch):
    """Contract: a server that restarts costs the stage it hits, not the hours before it."""
    passing = [StoreUnavailableError("no answer"), CollectionBusyError("docs", "a run on another machine")]
    failing = {stage: passing for stage in ("plan", "group_1", "verify", "promote")}
    run = scripted(monkeypatch, groups=2, open=passing[:1], **failing)
    assert run_index("docs", "http://qdrant", "retried", "kvembed/demo") is REPORT
    assert not any(run.errors.values())
    begun = ["open", *["open", "plan"] * 3]
    assert run.calls == [*begun, "group 0", *["group 1"] * 3, *["verify"] * 3, *["promote"] * 3]
    assert run.closed == run.calls.count("open"), "an attempt is closed before the next one opens"


def test_run_index_after_every_retry_fails_and_closes_the_run(api, monkeypatch):
    run = scripted(monkeypatch, group_0=[StoreUnavailableError("no answer")] * 9)
    with pytest.raises(StoreUnavailableError, match="no answer"):
        run_index("docs", "http://qdrant", "given-up", "kvembed/demo")
    assert run.calls == ["open", "plan", *["group 0"] * 4]
    assert run.closed == 1


@pytest.mark.parametrize(
    "error",
    [SourceError("nothing to index in docs; pass another folder"), LeaseLostError("docs", "a run on another machine")],
)
def test_run_index_error_that_the_same_call_cannot_mend_fails_at_once_with_its_message(api, monkeypatch, error):
    """A lease that is lost is another run's by now: this one must not go on writing."""
    run = scripted(monkeypatch, group_0=[error])
    name = f"hopeless-{type(error).__name__}"
    with pytest.raises(type(error), match=re.escape(str(error))):
        run_index("docs", "store", name, "kvembed/demo")
    assert run.calls == ["open", "plan", "group 0"]
    recorded = recorded_run(f"index-{name}")
    assert recorded.state is not None
    assert recorded.state.is_failed()
    assert str(error) in (recorded.state.message or "")


def test_run_index_huge_corpus_makes_few_task_runs(api, monkeypatch):
    """Prefect's SQLite locks up under thousands of task runs, and each takes its time."""
    monkeypatch.setattr(stages, "GROUPS", 3)
    run = scripted(monkeypatch, groups=10_000)
    run_index("docs", "store", "huge", "kvembed/demo")
    assert len(recorded_tasks(recorded_run("index-huge"), 7, seconds=2)) == 3 + OTHER_STAGES
    assert run.calls.count("group 2") == 1


def test_groups_and_other_stages_stay_within_fifty_task_runs():
    assert stages.GROUPS + OTHER_STAGES <= 50


def test_index_corpus_executor_is_made_as_asked_and_closed_with_the_run(api, monkeypatch):
    run = scripted(monkeypatch, plan=[StoreUnavailableError("no answer")])
    index_corpus(source="docs", name="manned", store="s", executor="local", workers=3, device="cpu")
    assert run.executors == [("local", {"workers": 3, "device": "cpu"})] * 2
    assert run.executors_closed == 2, "processes of an attempt that failed are ended before the next one"


def test_retries_come_later_each_time_and_never_together():
    for task in (stages.plan, stages.run_shard_group, stages.verify, stages.promote):
        delays = task.retry_delay_seconds
        assert task.retries == len(delays) == 3
        assert delays == sorted(delays)
        assert task.retry_jitter_factor


def test_run_index_encoder_fields_reach_the_encoder(api, monkeypatch):
    """`--flow` must build the encoder that the direct call builds, or the collection rebuilds itself."""
    scripted(monkeypatch)
    seen = []
    monkeypatch.setattr("flows.index.open_encoder", lambda *given, **more: seen.append((given, more)))
    given = {"prefix_bias": 0.5, "layers": "auto", "model": "other", "transform": None}
    run_index("docs", "store", "fields", "m", layers=(2, 3), encoder=given, device="cpu")
    run_index("docs", "store", "fields", "m", encoder=given)
    (explicit, more), (automatic, _) = seen
    assert explicit == ("store", "fields", {"prefix_bias": 0.5, "transform": None, "model": "m", "layers": [2, 3]})
    assert more["device"] == "cpu"
    assert automatic == ("store", "fields", {"prefix_bias": 0.5, "transform": None, "model": "m"})


def test_run_index_options_reach_the_run(api, monkeypatch):
    run = scripted(monkeypatch)
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
    assert run.opened[0]["options"] == IngestOptions(
        delete="all",
        guard=DeletionGuard(share=0.5, count=7),
        on_change="refuse",
        wait=3,
        retry_quarantined=True,
        max_quarantined=4,
        adopt=True,
        storage=StorageConfig(on_disk=True, quantization="scalar"),
    )
    recorded = recorded_run("index-optional").parameters["options"]
    assert recorded["guard"] == {"free": 5, "share": 0.5, "count": 7}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"options": {"waiting": 3}}, "waiting"),
        ({"options": {"guard": {"part": 0.5}}}, "part"),
        ({"options": {"guard": {"share": 20}}}, "share is from 0 to 1"),
        ({"options": {"on_change": "ask"}}, "'rebuild' or 'refuse'"),
        ({"options": {"max_quarantined": -1}}, "greater than or equal to 0"),
        ({"options": {"storage": {"quantization": "heavy"}}}, "'none', 'scalar' or 'binary'"),
        ({"source": ""}, "at least 1 character"),
        ({"executor": "threads"}, "Input should be 'inline'"),
        ({"workers": 0}, "greater than 0"),
    ],
)
def test_index_corpus_wrong_parameter_is_refused_before_the_run(api, monkeypatch, wrong, words):
    """A deployment's parameters are JSON that nobody has looked at: a misspelt guard must not become the default."""
    run = scripted(monkeypatch)
    with pytest.raises((ValueError, ParameterTypeError), match=re.escape(words)):
        index_corpus(**{"source": "docs", "store": "store", "name": "wrong", "model": "kvembed/demo", **wrong})
    assert run.calls == []


def test_index_options_are_those_of_ingest():
    """Two lists of options drift apart unless something compares them."""
    ours = {name: field.get_default() for name, field in IndexOptions.model_fields.items()}
    theirs = asdict(IngestOptions()) | {"guard": DeletionGuard()}
    assert ours == {name: value for name, value in theirs.items() if name != "delete"}


def test_index_corpus_parameters_are_json_in_their_schema():
    properties = index_corpus.parameters.properties
    assert set(properties) >= {"source", "store", "name", "model", "layers", "delete", "options", "executor", "workers"}
    assert json.loads(json.dumps(properties)) == properties


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
