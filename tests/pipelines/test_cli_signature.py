"""Records of options reach typer as single options, and come back filled."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, get_type_hints

import pytest
import typer

from pipelines.cli_index import IndexRequest
from pipelines.cli_signature import spread


@dataclass(frozen=True, slots=True)
class Inner:
    colour: Annotated[str | None, typer.Option("--colour")] = None
    size: Annotated[int, typer.Option("--size", min=1)] = 3


@dataclass(frozen=True, slots=True)
class Outer:
    place: Annotated[str, typer.Argument()]
    inner: Inner
    loud: Annotated[bool, typer.Option("--loud")] = False


def run(*arguments: str) -> list[object]:
    seen: list[object] = []
    app = typer.Typer()

    @app.command()
    @spread
    def paint(outer: Outer, twice: Annotated[bool, typer.Option("--twice")] = False) -> None:
        seen.extend([outer, twice])

    app(list(arguments), standalone_mode=False)
    return seen


def test_spread_nested_records_come_back_filled():
    assert run("wall", "--colour", "red", "--twice") == [Outer("wall", Inner("red", 3)), True]
    assert run("wall", "--size", "5", "--loud") == [Outer("wall", Inner(None, 5), True), False]


def test_spread_field_keeps_its_limits_and_what_must_be_given():
    with pytest.raises(typer.BadParameter, match="greater than or equal to 1"):
        run("wall", "--size", "0")
    with pytest.raises(typer.TyperException) as missing:
        run()
    assert "place" in missing.value.format_message().lower()


def test_spread_signature_lists_every_field_once():
    def command(request: IndexRequest) -> None: ...

    names = list(inspect.signature(spread(command)).parameters)
    assert len(set(names)) == len(names)
    assert {"source", "collection", "store", "model", "device", "max_tokens", "id_field", "delete"} <= set(names)
    assert "encoder" not in names
    assert set(get_type_hints(IndexRequest)) - set(names) == {"encoder", "cutting", "fields", "run"}
