"""`kvembed sweep` as a person calls it: what it prints and writes, and what it says of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.cli_sweep_values import parse_windows, read_prompts
from pipelines.errors import SourceError
from pipelines.evaluation import sweep, sweep_scoring
from pipelines.evaluation.sweep_files import read_sweep
from pipelines.rendering_sweep import sweep_report
from tests.pipelines.command_line import Command, kvembed
from tests.pipelines.evaluations import plain_score
from tests.pipelines.sweeps import small_sweep

__all__ = ["kvembed"]

TEXTS = [f"{one} {other}" for one in ("ice", "bread", "ship", "wind", "steel") for other in ("melts", "is", "floats")]
TEXTS += [f"paper {word} light" for word in ("and", "or", "under", "over", "by", "with", "without")]


@pytest.fixture(autouse=True)
def _scored_by_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_scoring, "score", plain_score)
    monkeypatch.setattr(sweep, "require_ranx", lambda: None)
    monkeypatch.setattr("pipelines.evaluation.measures.require_ranx", lambda: None)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    rows = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(TEXTS)]
    queries = [{"_id": f"q{place}", "text": text.split()[0]} for place, text in enumerate(TEXTS[:12])]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text("".join(f"q{place}\td{place}\t1\n" for place in range(12)))
    return folder


def test_sweep_prints_one_document_and_writes_the_same(
    kvembed: Command, dataset: Path, tiny_model_dir: Path, tmp_path: Path
):
    options = ("--model", tiny_model_dir, "--axes", "window,bias", "--biases", "0,2", "--queries", 10, "--repeats", 2)
    found = kvembed("sweep", dataset, *options, "--output", tmp_path / "out", "--json")
    assert found.code == 0, found.err
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert found.json == written
    assert found.json["subset"]["queries_of"] == 12
    assert [axis["axis"] for axis in found.json["axes"]] == ["bias", "window"]
    assert [point["label"] for point in found.json["axes"][1]["points"]] == ["none", "0", "1", "2", "3"]
    assert found.json["command"].startswith("kvembed sweep small --axes window,bias --biases 0,2")
    assert "7 configurations by 7 forward passes over 22 chunks and 10 queries" in found.err
    assert read_sweep(tmp_path / "out").title == "small, a subset (10 of 12 queries, 22 of 22 documents)"
    again = kvembed("sweep", dataset, *options, "--output", tmp_path / "out", "-v")
    assert again.code == 0
    assert "s left" not in again.err, "nothing is measured twice"
    assert "small, a subset (10 of 12 queries, 22 of 22 documents): ndcg@10" in again.out


def test_report_shows_figures_of_every_part(capsys: pytest.CaptureFixture[str]):
    from rich.console import Console

    sweep_report(small_sweep())(Console(width=110))
    shown = capsys.readouterr().out
    for words in (
        "small, a subset (2 of 4 queries, 8 of 80 documents): ndcg@10",
        "0.6000   0.5000 to 0.7000     +0.1000   +0.1000 to +0.1000",
        "Chosen on other queries   0.5500, 0.5000 to 0.6000; the best in hindsight has 0.0500 more",
        "chosen   2 70%, 1 30%",
        "rank 1 of 2 windows (95 %: 1 to 2), above 100 % of the others",
        "from a window at random",
        "Warning: few queries",
    ):
        assert words in shown
    assert "from no re-routing" not in shown


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--axes", "bias,depth"), 2, "'depth' is no axis; legal are bias, window, pooling, prompt, transform"),
        (("--poolings", "hybrid,median"), 2, "names an unknown pooling; legal are hybrid, mean, last_token"),
        (("--biases", "1,x"), 2, "'1,x' is no list of numbers"),
        (("--biases", "nan"), 1, "others must be finite"),
        (("--windows", "1;auto"), 2, "'auto' is no window; give layer numbers or none, such as none;1;2,3"),
        (("--windows", "1;7"), 1, "re-routing layer 7 is outside 0..3"),
        (("--widths", "0"), 1, "window width 0 is outside 1..4"),
        (("--widths", "two"), 2, "'two' is no list of widths"),
        (("--widths", "1", "--windows", "1"), 2, "--windows names the windows and --widths makes them"),
        (("--axes", "window", "--biases", "1"), 2, "--biases gives values of bias, which --axes leaves out"),
        (("--transforms", "none;centre"), 2, "'centre' in 'centre' is none of center"),
        (("--metric", "ndcg"), 2, "'ndcg' is no metric; give one of ndcg@10"),
        (("--queries", "3"), 1, "3 queries are too few to choose on some and score on others in 5 folds"),
        (("--folds", "7"), 1, "give fewer --folds, at most 6"),
        (("--folds", "1"), 2, "Invalid value for '--folds'"),
        (("--documents", "4"), 1, "4 documents are fewer than the 12 that are judged"),
        (("--method", "echo"), 1, "method 'echo' re-routes nowhere"),
        (("--layers", "none"), 1, "a sweep goes around a configuration that re-routes"),
        (("--prompts", "gone.json"), 1, "prompts cannot be read from gone.json"),
        (("--output", "."), 1, "holds other things than a sweep"),
    ],
)
def test_sweep_of_bad_input_says_what_is_legal(
    kvembed: Command, dataset: Path, tiny_model_dir: Path, options: tuple[str, ...], code: int, words: str
):
    found = kvembed("sweep", dataset, "--model", tiny_model_dir, *options, "--json")
    assert found.code == code, found.err
    assert words in found.json["error"]["message"]


def test_sweep_of_no_data_set_names_the_layout(kvembed: Command, tmp_path: Path):
    found = kvembed("sweep", tmp_path / "gone")
    assert found.code == 1
    assert "is not a data set to evaluate on" in found.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds no prompts by name"),
        ("{", "prompts cannot be read"),
        ('{"main": {"query": "{text}", "document": "{text}"}}', "not 'main'"),
        ('{"a b": {"query": "{text}", "document": "{text}"}}', "names a prompt 'a b'"),
        ('{"a": {"query": "{text}"}}', "needs query and document, and nothing else"),
    ],
)
def test_prompts_file_that_is_something_else_is_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=words):
        read_prompts(path)


def test_windows_are_read_as_layers_of_each():
    assert parse_windows("none; 1;2,3") == ((), (1,), (2, 3))


@pytest.mark.slow
def test_sweep_killed_goes_on_and_measures_nothing_twice(dataset: Path, tiny_model_dir: Path, tmp_path: Path):
    """SIGKILL while configurations are written: the next run keeps every file, and comes to the same figures."""
    code = "from pipelines.cli import main; main()"
    options = ("--model", str(tiny_model_dir), "--axes", "bias,window", "--json")
    command = [sys.executable, "-W", "ignore", "-c", code, "sweep", str(dataset), *options, "--output"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KVEMBED_CACHE_DIR": str(tmp_path / "cache")}
    scores = tmp_path / "cut" / "scores"
    running = subprocess.Popen([*command, str(tmp_path / "cut")], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(scores.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it ended before it was killed"
    kept = {path.name: path.stat().st_mtime_ns for path in scores.glob("*.json")}
    outputs = [
        json.loads(subprocess.run([*command, str(folder)], env=environment, check=True, capture_output=True).stdout)
        for folder in (tmp_path / "cut", tmp_path / "whole")
    ]
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in scores.glob("*.json")}.items()
    for name in ("axes", "standing", "overall"):
        assert outputs[0][name] == outputs[1][name]
