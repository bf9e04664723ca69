"""The benchmark that makes the paper's comparison, rehearsed with a tiny model and a local task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("mteb")

from benchmarks import mteb_table
from benchmarks.mteb_tasks import ProgrammersSTS, StandardLibraryRetrieval, tokens_of
from kvembed.mteb import MTEBEncoder

PARAGRAPHS = [f"paragraph {number} tells of gzip and files, of dates {number * 7} and lists" for number in range(40)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_dir: Path):
    """Run the benchmark over the tiny model and the pairs alone, in a folder of results."""
    monkeypatch.setattr(mteb_table, "DEMO_MODEL", str(tiny_model_dir))
    monkeypatch.setattr(mteb_table, "local_tasks", lambda: [ProgrammersSTS()])
    monkeypatch.setattr(mteb_table, "paragraphs", lambda: PARAGRAPHS)

    def call(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["mteb_table", "--rehearse", "--output", str(tmp_path / "out"), *options])
        return mteb_table.main()

    return call


def test_rehearsal_writes_a_table_and_goes_on_where_it_was(
    run, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    assert run("--systems", "kv-rerouting", "no-rerouting") == 0
    written = (tmp_path / "out" / "table.md").read_text()
    assert written.count("| kv-rerouting |") == written.count("| no-rerouting |") == 1
    assert "kv-rerouting is " in written
    assert "its figures by model and task were not at hand" in written
    (layers,) = (tmp_path / "out" / "layers").iterdir()
    assert json.loads(layers.read_text())["layers"]
    embedded: list[str] = []
    encode = MTEBEncoder.encode

    def noted(self: MTEBEncoder, *arguments: object, **named: object) -> object:
        embedded.append(str(self.mteb_model_meta.name).rpartition("-")[2])
        return encode(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(MTEBEncoder, "encode", noted)
    monkeypatch.setattr(mteb_table, "select_layers", None)
    assert run("--systems", "kv-rerouting", "no-rerouting", "mean") == 0
    assert set(embedded) == {"mean"}
    assert f"| {tiny_model_dir.name} | mean |" in (tmp_path / "out" / "table.md").read_text()


def test_task_that_fails_is_named_and_ends_with_1(
    run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(self: ProgrammersSTS, **_: object) -> None:
        raise OSError("the data set is gone")

    monkeypatch.setattr(ProgrammersSTS, "load_data", broken)
    assert run("--systems", "mean") == 1
    assert "ProgrammersSTS: the data set is gone" in capsys.readouterr().out


def test_estimate_measures_or_takes_a_speed(run, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("--estimate", "--tasks", "x", "--tokens-per-second", "1000") == 0
    assert "Without counts, and so not in it: ProgrammersSTS" in capsys.readouterr().out
    assert run("--estimate") == 0
    assert "| 1,000 |" not in (tmp_path / "out" / "estimate.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        run("--tokens-per-second", "0")


def test_tokens_of_a_task_are_those_of_its_counts():
    import mteb

    found = tokens_of(mteb.get_task("STSBenchmark"), 512)
    assert found == pytest.approx(147886 / 4 + 2 * 1379 * 12, abs=1)
    assert tokens_of(mteb.get_task("STSBenchmark"), 20) == pytest.approx(2 * 1379 * 20, abs=1)


@pytest.mark.slow
def test_local_retrieval_task_has_an_answer_for_every_question():
    task = StandardLibraryRetrieval()
    task.load_data()
    parts = task.dataset["default"]["test"]
    documents = set(parts["corpus"]["id"])
    assert len(parts["queries"]) >= 45
    assert all(found and set(found) <= documents for found in parts["relevant_docs"].values())
