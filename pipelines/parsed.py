"""What every parser returns, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.documents import Heading, TextFormat
from pipelines.errors import PipelineError


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
    """Return a title with every run of white space made one space."""
    return " ".join(text.split())


def missing_extra(kind: str, extra: str) -> ParseError:
    """Build the refusal of a file whose parser is not installed."""
    return ParseError(f'{kind} needs an extra that is not installed; pip install "kvembed[{extra}]"')
