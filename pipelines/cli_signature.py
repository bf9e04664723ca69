"""Records of options -> the flat signature that typer reads, so that every list of options is written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import TypeGuard, get_type_hints


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see the fields of a record where a command takes the record.

    A parameter whose type is a dataclass stands for the dataclass' fields, whose types are `Annotated` with what typer
    needs; a field may be such a record again. The command gets the records, filled.

    Args:
        command: What a typer command does.
    """
    kinds = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()

    @wraps(command)
    def run(**given: object) -> None:
        command(**{one.name: _filled(one.name, kinds[one.name], given) for one in own})

    flat = [found for one in own for found in _spread(one.name, kinds[one.name], one.default)]
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return run


def _spread(name: str, kind: object, default: object) -> Iterator[inspect.Parameter]:
    if not _is_record(kind):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        return
    kinds = get_type_hints(kind, include_extras=True)
    for field in fields(kind):  # type: ignore[arg-type]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield from _spread(field.name, kinds[field.name], default)


def _filled(name: str, kind: object, given: Mapping[str, object]) -> object:
    if not _is_record(kind):
        return given[name]
    kinds = get_type_hints(kind, include_extras=True)
    return kind(**{inner: _filled(inner, kinds[inner], given) for inner in kinds})


def _is_record(kind: object) -> TypeGuard[Callable[..., object]]:
    return isinstance(kind, type) and is_dataclass(kind)
