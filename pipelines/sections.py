"""Where a text divides before any token is counted: sections and their headings."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.documents import Heading

DEEPEST_SECTION = 6
"""Deeper headings, such as the pages of a PDF, say where a chunk is and do not end one."""

_RULE = r"[ \t]*([^\w\s])\{}+[ \t]*"
_NEWLINE = r"(?:\r\n|\r|\n)"
_HEADING = re.compile(f"(?:{_RULE.format(1)}{_NEWLINE})?[^\r\n]*(?:{_NEWLINE}{_RULE.format(2)}(?=[\r\n]|\\Z))?\\s*")
"""A heading's line, with the lines of punctuation over and under it and the blank lines after it."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, up to the next heading."""

    start: int
    end: int
    body: int
    """First character behind the heading."""
    level: int
    """0 before the first heading."""


class HeadingPaths:
    """Titles of the sections around a character."""

    def __init__(self, headings: tuple[Heading, ...]) -> None:
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = []
        around: list[Heading] = []
        for heading in headings:
            while around and around[-1].level >= heading.level:
                around.pop()
            around.append(heading)
            self._starts.append(heading.start)
            self._paths.append(tuple(outer.title for outer in around))

    def at(self, position: int) -> tuple[str, ...]:
        """Return the path, outermost first; empty before the first heading."""
        before = bisect_right(self._starts, position)
        return self._paths[before - 1] if before else ()


def packed_sections(text: str, headings: tuple[Heading, ...], fits: Callable[[str], bool]) -> Iterator[Section]:
    """Yield sections in order that together are the text.

    A section takes in as many of its subsections as fit in one chunk with it; two sections side by side stay
    apart, so that a chunk has one heading path.
    """
    sections = list(_sections(text, headings))
    first = 0
    while first < len(sections):
        section, last = sections[first], first + 1
        while (
            last < len(sections)
            and sections[last].level > section.level
            and fits(text[section.start : sections[last].end])
        ):
            last += 1
        yield Section(section.start, sections[last - 1].end, section.body, section.level)
        first = last


def _sections(text: str, headings: tuple[Heading, ...]) -> Iterator[Section]:
    marks = [heading for heading in headings if heading.level <= DEEPEST_SECTION]
    starts = [0, *(heading.start for heading in marks), len(text)]
    levels = [0, *(heading.level for heading in marks)]
    for level, start, end in zip(levels, starts, starts[1:], strict=False):
        heading = _HEADING.match(text, start, end) if level else None
        if start < end:
            yield Section(start, end, heading.end() if heading else start, level)
