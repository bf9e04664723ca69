"""What a result says about the command that made it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import pytest
import typer

from pipelines import cli_options as options
from pipelines.cli_signature import spread
from pipelines.invocation import command_line


def written(*arguments: str) -> str:
    seen: list[str] = []
    app = typer.Typer()

    @app.callback()
    def about() -> None: ...

    @app.command()
    @spread
    def paint(
        context: typer.Context,
        wall: Annotated[str, typer.Argument()],
        output: options.Output,
        colours: Annotated[list[str] | None, typer.Option("--colour", "-c")] = None,
        size: Annotated[int, typer.Option("--size")] = 3,
        place: Annotated[Path | None, typer.Option("--place")] = None,
        loud: Annotated[bool, typer.Option("--loud")] = False,
        store: options.Store = None,
    ) -> None:
        seen.append(command_line(context))

    app(["paint", *arguments], standalone_mode=False)
    return seen[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["wall"], "kvembed paint wall"),
        (["--size", "3", "wall"], "kvembed paint wall --size 3"),
        (
            ["wall", "-c", "red", "-c", "dark blue", "--loud"],
            "kvembed paint wall --colour red --colour 'dark blue' --loud",
        ),
        (["it's; rm -rf *"], "kvembed paint 'it'\"'\"'s; rm -rf *'"),
        (["wall", "--json", "-vv", "--debug", "--log-format", "json"], "kvembed paint wall"),
    ],
)
def test_command_line_is_what_was_given_without_defaults(given: list[str], expected: str):
    assert written(*given) == expected
    assert shlex.split(expected)[:2] == ["kvembed", "paint"]


def test_command_line_has_neither_places_of_the_machine_nor_passwords():
    """Results are passed on and published."""
    shown = written("/home/me/wall", "--place", "/secret/place/out", "--store", "https://me:word@host:6333/a")
    assert shown == "kvembed paint wall --place out --store https://host:6333/a"
    assert written("../data/wall") == "kvembed paint ../data/wall"
