"""Values to sweep, as a person writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipelines.cli_options import parse_layers
from pipelines.cli_transform import parse_transform
from pipelines.errors import SourceError

if TYPE_CHECKING:
    from kvembed import TransformConfig
    from kvembed.config import Pooling
    from pipelines.evaluation.sweep_grid import Prompt
    from pipelines.evaluation.sweep_records import Axis

_EXAMPLE = '{"mine": {"query": "Question: {text}", "document": "Answer: {text}"}}'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def parse_axes(text: str) -> tuple[Axis, ...]:
    """Read names of axes such as `bias,window`.

    Raises:
        typer.BadParameter: an unknown one.
    """
    from pipelines.evaluation.sweep_records import AXES

    words = {word.strip() for word in text.split(",")}
    if unknown := sorted(words.difference(AXES)):
        raise typer.BadParameter(f"{unknown[0]!r} is no axis; legal are {', '.join(AXES)}")
    return tuple(axis for axis in AXES if axis in words)


def parse_numbers(text: str) -> tuple[float, ...]:
    """Read numbers such as `0,0.5,1`.

    Raises:
        typer.BadParameter: anything else.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers; give such as -1,0,1,2") from error


def parse_widths(text: str) -> tuple[int, ...]:
    """Read counts of layers such as `1,3`.

    Raises:
        typer.BadParameter: anything else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise typer.BadParameter(f"{text!r} is no list of widths in layers; give such as 1,3")
    return tuple(int(word) for word in words)


def parse_windows(text: str) -> tuple[tuple[int, ...], ...]:
    """Read windows such as `none;1;2,3`.

    Raises:
        typer.BadParameter: anything else.
    """
    windows = []
    for part in text.split(";"):
        layers = parse_layers(part.strip())
        if layers is None or layers == "auto":
            raise typer.BadParameter(f"{part!r} is no window; give layer numbers or none, such as none;1;2,3")
        windows.append(layers)
    return tuple(windows)


def parse_poolings(text: str) -> tuple[Pooling, ...]:
    """Read poolings such as `hybrid,mean`.

    Raises:
        typer.BadParameter: an unknown one.
    """
    from kvembed.config import Pooling

    try:
        return tuple(Pooling(word.strip()) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} names an unknown pooling; legal are {', '.join(Pooling)}") from error


def parse_transforms(text: str) -> tuple[TransformConfig | None, ...]:
    """Read transforms such as `none;center;whiten,shrinkage=0.9`.

    Raises:
        typer.BadParameter: one that `--transform` would not take.
    """
    return tuple(parse_transform(part) for part in text.split(";"))


def read_prompts(path: Path) -> dict[str, Prompt]:
    """Read a JSON file of prompts by name.

    Raises:
        SourceError: it cannot be read, or is something else.
    """
    from pipelines.evaluation.sweep_grid import Prompt
    from pipelines.evaluation.sweep_records import MAIN

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"prompts cannot be read from {path}: {error}; give a JSON file such as {_EXAMPLE}"
        ) from error
    if not isinstance(record, dict) or not record:
        raise SourceError(f"{path} holds no prompts by name; give a JSON file such as {_EXAMPLE}")
    for name, prompt in record.items():
        if not _NAME.fullmatch(name) or name == MAIN:
            raise SourceError(
                f"{path} names a prompt {name!r}; a name is letters, digits and . _ -, at most 40, and not {MAIN!r}"
            )
        if not isinstance(prompt, dict) or {*prompt} != {"query", "document"}:
            raise SourceError(f"prompt {name!r} of {path} needs query and document, and nothing else: {_EXAMPLE}")
    return {name: Prompt(**prompt) for name, prompt in record.items()}
