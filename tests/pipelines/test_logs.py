"""With JSON logs stderr is one JSON object a line, each with the run and the document that it is about."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.store import open_store
from tests.pipelines.command_line import Command, Outcome, handbook, kvembed
from tests.server.double import Double

__all__ = ["handbook", "kvembed"]

SECRET = "a-key-nobody-must-see"


def records(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.err.splitlines()]


def test_index_logs_one_object_a_line_with_run_collection_stage_and_document(kvembed: Command, handbook: Path) -> None:
    broken = "bro\nken\u2028\x1b[31m.pdf"
    (handbook / broken).write_bytes(b"no PDF at all")
    done = kvembed("index", handbook, "-c", "notes", "--layers", "2", "--log-format", "json", "--json")
    assert done.code == 3
    found = records(done)
    assert done.json["documents_quarantined"] == 1
    assert {record["collection"] for record in found} == {"notes"}
    assert len({record["run_id"] for record in found}) == 1
    assert all({"timestamp", "level", "logger", "message"} <= set(record) for record in found)
    assert [record["stage"] for record in found if "seconds" in record and "stage" in record] == [
        "plan",
        "prepare",
        "write",
        "verify",
    ]
    (bad,) = [record for record in found if record["level"] == "WARNING"]
    assert (bad["document_id"], bad["stage"]) == (broken, "parse")
    assert found[-1]["message"] == "run finished: quarantined"
    for figure in ("documents_added", "documents_quarantined", "chunks_embedded", "tokens"):
        assert found[-1][figure] == done.json[figure]


def test_environment_asks_for_json_and_an_option_wins(
    kvembed: Command, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVEMBED_LOG_FORMAT", "json")
    assert records(kvembed("index", handbook, "-c", "notes", "--layers", "2", "-v"))
    unchanged = kvembed("index", handbook, "-c", "notes", "--log-format", "text")
    assert unchanged.err == ""
    assert "Nothing changed" in unchanged.out


def test_failed_command_ends_with_an_error_record(kvembed: Command) -> None:
    failed = kvembed("search", "nowhere", "anything", "--log-format", "json", "--debug")
    (record,) = records(failed)
    assert (record["level"], record["exit_code"]) == ("ERROR", failed.code) == ("ERROR", 1)
    assert "there is no store" in record["message"]
    assert "Traceback" in record["exc_info"]
    assert failed.out == ""


def test_environment_with_an_unknown_format_says_which_are_legal(
    kvembed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVEMBED_LOG_FORMAT", "xml")
    failed = kvembed("status")
    assert failed.code == 1
    assert failed.err == ("Error: KVEMBED_LOG_FORMAT is 'xml': Input should be 'text' or 'json'; correct or unset it\n")


def test_wait_for_a_server_is_logged_as_json_and_names_no_key(
    kvembed: Command, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Double(key=SECRET) as double:
        for name, value in {**double.environment(grpc=False), "KVEMBED_LOG_FORMAT": "json"}.items():
            monkeypatch.setenv(name, value)
        double.faults.at(0, "busy_after", seconds=0.01)
        done = kvembed("index", handbook, "-c", "notes", "--layers", "2")
    assert done.code == 0
    waits = [record for record in records(done) if record["logger"] == "pipelines.retrying"]
    assert len(waits) == 1
    assert "attempt 2 of 13" in waits[0]["message"]
    assert SECRET not in done.err


def test_logging_is_as_it_was_after_a_command(kvembed: Command) -> None:
    before = [(one.level, one.handlers[:]) for one in map(logging.getLogger, ("", "pipelines", "kvembed", "flows"))]
    kvembed("status", "--log-format", "json")
    kvembed("search", "nowhere", "anything", "--log-format", "json")
    after = [(one.level, one.handlers[:]) for one in map(logging.getLogger, ("", "pipelines", "kvembed", "flows"))]
    assert after == before


def status(tmp_path: Path, code: str = "pass", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `kvembed status` on an empty store in a process of its own: providers can be set only once in one."""
    open_store(tmp_path / "store").close()
    command = [sys.executable, "-c", f"import sys; {code}; from pipelines.cli import main; main(['status'])"]
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    everything = {**kept, "KVEMBED_STORE": str(tmp_path / "store"), **environment}
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, env=everything, capture_output=True, text=True, check=False, timeout=60)


def test_exporter_of_the_environment_gets_spans_and_metrics(tmp_path: Path) -> None:
    done = status(tmp_path, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="console")
    assert done.returncode == 0
    assert '"name": "get_collections"' in done.stderr
    assert '"db.client.operation.duration"' in done.stderr
    assert '"service.name": "kvembed"' in done.stderr
    assert "get_collections" not in done.stdout


def test_exporter_that_is_not_installed_ends_the_command_with_one_message(tmp_path: Path) -> None:
    done = status(tmp_path, OTEL_TRACES_EXPORTER="nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: OpenTelemetry cannot be configured as its variables (OTEL_*) say: ")
    assert "'nonsense'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_exporter_without_the_extra_is_told_of_and_does_without(tmp_path: Path) -> None:
    gone = "sys.modules['opentelemetry.instrumentation'] = None"
    done = status(tmp_path, gone, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0
    assert done.stderr == (
        "an OpenTelemetry exporter is asked for (OTEL_*) and not installed: pip install 'kvembed[otel]'\n"
    )


def test_disabled_sdk_is_not_configured(tmp_path: Path) -> None:
    done = status(tmp_path, OTEL_TRACES_EXPORTER="nonsense", OTEL_SDK_DISABLED="true")
    assert (done.returncode, done.stderr) == (0, "")
