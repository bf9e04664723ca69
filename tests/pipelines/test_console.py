"""Progress goes to stderr for whoever watches, and nothing that a document says can steer a terminal."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.console import Terminal
from tests.pipelines.command_line import Command, handbook, kvembed

__all__ = ["handbook", "kvembed"]


def terminal_with(errors: io.StringIO, *, json_mode: bool, verbosity: int = 0, watched: bool = True) -> Terminal:
    terminal = Terminal(json_mode=json_mode, verbosity=verbosity)
    terminal.errors = Console(file=errors, force_terminal=watched, width=100, markup=False)
    return terminal


@pytest.mark.parametrize("json_mode", [False, True])
def test_progress_on_a_terminal_is_shown_with_json_too(json_mode: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is on stderr, so it cannot spoil the document on stdout."""
    errors = io.StringIO()
    with terminal_with(errors, json_mode=json_mode) as terminal:
        with terminal.waiting("loading a model"):
            pass
        with terminal.progress() as progress:
            progress("embed", 1, 2)
        terminal.emit({"done": True}, lambda console: console.print("done"))
    assert "loading a model" in errors.getvalue()
    assert "embedding documents" in errors.getvalue()
    assert "1/2" in errors.getvalue()
    out = capsys.readouterr().out
    assert json.loads(out) == {"done": True} if json_mode else out == "done\n"


def test_progress_without_a_terminal_is_silent() -> None:
    """What a scheduler starts must not send a mail about nothing."""
    errors = io.StringIO()
    with terminal_with(errors, json_mode=False, watched=False) as terminal, terminal.progress() as progress:
        progress("embed", 1, 2)
    assert errors.getvalue() == ""


@pytest.mark.parametrize("watched", [False, True])
def test_progress_verbose_says_each_stage_once_with_its_seconds(watched: bool) -> None:
    errors = io.StringIO()
    with terminal_with(errors, json_mode=True, verbosity=1, watched=watched) as terminal:
        with terminal.waiting("loading a model"):
            pass
        with terminal.progress() as progress:
            for done in range(3):
                progress("embed", done, 1200)
            progress("delete", 0, 7)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", errors.getvalue())
    assert re.findall(r"([a-z ]+: (?:\d+, )?)\d+\.\d s\n", plain) == [
        "loading a model: ",
        "embedding documents: 2, ",
        "deleting documents: ",
    ]


def test_index_verbose_names_its_stages_and_keeps_stdout_pure(
    kvembed: Command, handbook: Path, tiny_model_dir: Path
) -> None:
    indexed = kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir, "--layers", "1", "-v", "--json")
    assert indexed.json["documents_added"] == 3
    assert re.search(r"^reading documents: 3, \d+\.\d s$", indexed.err, re.MULTILINE)
    assert re.search(r"^embedding documents: 3, \d+\.\d s$", indexed.err, re.MULTILINE)


STEERING = "\x1b[2J\x1b]0;owned\x07\x9b31m\x08\x7f"


def assert_cannot_steer(printed: str) -> None:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)  # rich's own colours
    assert not [character for character in plain if ord(character) < 32 and character != "\n"]
    assert not [character for character in plain if 0x7F <= ord(character) < 0xA0]


def test_search_hit_that_steers_the_terminal_is_shown_as_text(
    kvembed: Command, tmp_path: Path, tiny_model_dir: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    record = {"id": f"one{STEERING}", "title": f"Title{STEERING}\n9. Faked", "text": f"words {STEERING} more words"}
    rows.write_text(json.dumps(record) + "\n")
    planned = kvembed("plan", rows, "-c", "rows", "--model", tiny_model_dir, "--layers", "1")
    assert_cannot_steer(planned.out)
    assert "add    one" in planned.out
    kvembed("index", rows, "-c", "rows", "--model", tiny_model_dir, "--layers", "1")
    found = kvembed("search", "rows", "words")
    assert_cannot_steer(found.out)
    assert "more words" in found.out
    assert not re.search(r"^9\. Faked", found.out, re.MULTILINE), "a title must not look like a hit of its own"
    assert kvembed("search", "rows", "words", "--json").json["hits"][0]["document_id"] == record["id"]


def test_quarantine_of_a_name_that_steers_the_terminal_is_shown_as_text(
    kvembed: Command, handbook: Path, tiny_model_dir: Path
) -> None:
    name = b"bad\x1b[2J\n  delete all.md"
    (handbook / os.fsdecode(name)).write_bytes(b"\x00\x01\x02")
    indexed = kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir, "--layers", "1")
    assert indexed.code == 3
    assert "1 quarantined" in indexed.out
    for shown in (indexed, kvembed("status", "hb"), kvembed("plan", handbook, "-c", "hb")):
        assert_cannot_steer(shown.out)
        assert not re.search(r"^  delete ", shown.out, re.MULTILINE)


def test_status_at_80_columns_breaks_no_word(
    kvembed: Command, handbook: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (handbook / "bad.md").write_bytes(b"\x00\x01\x02")
    kvembed("index", handbook, "-c", "engineering-handbook-2026", "--model", tiny_model_dir, "--layers", "1,2")
    monkeypatch.setenv("COLUMNS", "80")
    for shown in (kvembed("status").out, kvembed("status", "engineering-handbook-2026").out):
        assert {"engineering-handbook-2026", "documents,", "quarantined", f"{tiny_model_dir.name},"} <= set(
            shown.split()
        )
        assert max(map(len, shown.splitlines())) <= 80


def test_error_that_quotes_a_document_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().report(ValueError(f"no {STEERING}"))
    assert_cannot_steer(capsys.readouterr().err)
