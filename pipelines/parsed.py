"""What every parser returns, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.documents import Heading, TextFormat
from pipelines.errors import PipelineError

_LONGEST_TITLE = 500
"""Every chunk carries its document's title and the headings around it, so a long one would be stored as often."""


class ParseError(PipelineError):
    """One file cannot be read as text; a source turns it into a rejected document."""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """The text of one file."""

    text: str
    title: str = ""
    headings: tuple[Heading, ...] = ()
    """In order of `start`."""
    format: TextFormat = "plain"


def one_line(text: str) -> str:
    """Return a title with every run of white space made one space, and no more than its first 500 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TITLE else f"{line[: _LONGEST_TITLE - 1].rstrip()}…"


def missing_extra(kind: str, extra: str) -> ParseError:
    """Build the refusal of a file whose parser is not installed."""
    return ParseError(f'{kind} needs an extra that is not installed; pip install "kvembed[{extra}]"')
