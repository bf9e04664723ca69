"""A sweep in a folder: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.errors import SourceError, TerminalError
from pipelines.evaluation.sweep_files import Scored, check_sweep_output, read_sweep, sweep_record, write_sweep
from pipelines.evaluation.sweep_records import AXES
from tests.pipelines.sweeps import small_sweep

KEY = "ab" * 32


def written(folder: Path) -> Path:
    sweep = small_sweep()
    scores = check_sweep_output(folder)
    for one in sweep.configurations:
        record = {"key": KEY, "configuration": {}, "scored": asdict(Scored(one.per_query, 8, 100, 0, 1.0))}
        (folder / one.scores).write_text(json.dumps(record))
    assert scores.root == folder
    return write_sweep(sweep, folder)


def test_sweep_written_is_read_back_to_the_last_value(tmp_path: Path):
    assert read_sweep(written(tmp_path / "out")) == small_sweep()


def test_sweep_record_is_json_and_has_no_single_query_but_names_its_file(tmp_path: Path):
    record = json.loads(json.dumps(sweep_record(small_sweep()), allow_nan=False))
    main = record["configurations"][0]
    assert "per_query" not in main
    assert main["scores"] == "scores/main.json"
    assert main["metrics"]["ndcg@10"]["mean"] == 0.5
    assert sorted(main["values"]) == sorted(AXES)
    assert record["axes"][0]["nested"]["chosen"] == {"2": 7, "1": 3}
    assert record["standing"]["to_none"] is None


def test_sweep_title_of_a_subset_says_so():
    assert small_sweep().title == "small, a subset (2 of 4 queries, 8 of 80 documents)"


def test_scores_are_read_under_their_own_key_alone(tmp_path: Path):
    scores = check_sweep_output(tmp_path / "out")
    scored = Scored({"q": {"ndcg@10": 1 / 3}}, 8, 100, 1, 2.5)
    scores.write(KEY, {"layers": [1]}, scored)
    found = scores.read(KEY)
    assert found == scored
    assert scores.read("cd" * 32) is None
    assert scores.read(KEY[:16] + "cd" * 24) is None, "a file of the same name under another key"


def test_scores_that_are_half_written_are_measured_again(tmp_path: Path):
    scores = check_sweep_output(tmp_path / "out")
    (tmp_path / "out" / scores.name(KEY)).write_text('{"key": "abab')
    assert scores.read(KEY) is None


def test_folder_with_other_things_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TerminalError, match=r"holds other things than a sweep \(thesis.tex\)"):
        check_sweep_output(tmp_path)


@pytest.mark.parametrize("damage", ["{", "{}", '{"schema": 2}', '{"schema": 1}'])
def test_damaged_sweep_is_an_error_that_names_the_folder(tmp_path: Path, damage: str):
    folder = written(tmp_path / "out")
    (folder / "sweep.json").write_text(damage)
    with pytest.raises(SourceError, match="out"):
        read_sweep(folder)


def test_sweep_whose_scores_are_gone_is_an_error(tmp_path: Path):
    folder = written(tmp_path / "out")
    (folder / "scores" / "main.json").unlink()
    with pytest.raises(SourceError, match=r"kvembed sweep DATASET --output"):
        read_sweep(folder)
