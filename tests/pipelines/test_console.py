"""Progress goes to stderr for whoever watches, and nothing that a document says can steer a terminal."""

from __future__ import annotations

import io
import json
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
