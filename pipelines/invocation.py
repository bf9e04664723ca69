"""The command that a person gave, for a result to say how it was made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli_options import Output

if TYPE_CHECKING:
    import typer

    from pipelines.errors import JSON

_SILENT = frozenset(field.name for field in fields(Output))
"""Options that change what is shown, not what is done."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


def command_line(context: typer.Context) -> str:
    """Write the command as a shell takes it: what was given, no defaults.

    Of an absolute path only the last part is kept, and of a URL no user name or password: results are passed on.

    Args:
        context: Of the running command.
    """
    return shlex.join(["kvembed", str(context.info_name), *_words(context)])


def _words(context: typer.Context) -> Iterator[str]:
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE" or parameter.name in _SILENT:
            continue
        given = context.params[str(parameter.name)]
        option = max(parameter.opts, key=len) if parameter.param_type_name == "option" else None
        for value in given if isinstance(given, list | tuple) else [given]:
            yield from [option] if option else []
            yield from [] if value is True else [_portable(value)]


def _portable(value: JSON | Path) -> str:
    text = _CREDENTIALS.sub("", str(value))
    return Path(text).name if Path(text).is_absolute() else text
