"""Headings of Markdown and reStructuredText; the text itself stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipelines.documents import Heading
from pipelines.parsed import ParsedText, one_line

_NEWLINE = re.compile(r"\r\n|\r|\n")
# Not by ^ and $, which know "\n" only.
_FRONT_MATTER = re.compile(r"---[ \t]*[\r\n](.*?)(?<=[\r\n])(?:---|\.\.\.)[ \t]*(?=[\r\n]|\Z)", re.S)
_FRONT_TITLE = re.compile(r"(?:\A|[\r\n])title:([^\r\n]+)")
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_MARKUP = re.compile(r"\*\*|\*|`+")
_RST_LINE = re.compile(r"([!-/:-@\[-`{-~])\1*")


def parse_markdown(text: str) -> ParsedText:
    """Find the ATX and setext headings of CommonMark, and the title.

    The title is the one in YAML front matter, or the first heading of level 1.
    """
    front = _FRONT_MATTER.match(text)
    start = front.end() if front else 0
    headings = tuple(_markdown_headings(text, start))
    named = _FRONT_TITLE.search(front[1]) if front else None
    title = named[1].strip(" \t\"'") if named else _first_title(headings)
    return ParsedText(text, one_line(title), headings, "markdown")


def parse_rst(text: str) -> ParsedText:
    """Find section titles: a line over, or between, lines of one punctuation character.

    Levels follow the order in which the decorations first appear, as docutils has it.
    """
    spans = _lines(text)
    lines = [text[start:end].rstrip() for start, end in spans]
    levels: dict[tuple[str, bool], int] = {}
    headings = []
    for number, over in _rst_titles(lines):
        level = levels.setdefault((lines[number + 1][0], over), len(levels) + 1)
        start = spans[number - over][0]
        headings.append(Heading(start, level, one_line(lines[number])))
    return ParsedText(text, headings[0].title if headings else "", tuple(headings))


@cache
def _block_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark")
    # Inline markup does not move a heading; leaving it unparsed makes this several times faster.
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _markdown_headings(text: str, start: int) -> Iterator[Heading]:
    lines = [start + begin for begin, _ in _lines(text[start:])]
    tokens = _block_parser().parse(text[start:])
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and (title := _heading_title(inline)):
            first_line = opening.map[0] if opening.map else 0
            yield Heading(lines[first_line], int(opening.tag[1]), title)


def _heading_title(inline: Token) -> str:
    return one_line(_MARKUP.sub("", _LINK.sub(r"\1", inline.content)))


def _first_title(headings: tuple[Heading, ...]) -> str:
    return next((heading.title for heading in headings if heading.level == 1), "")


def _rst_titles(lines: list[str]) -> Iterator[tuple[int, bool]]:
    """Yield (line number of the title, whether a line stands over it too)."""
    for number in range(len(lines) - 1):
        title, under = lines[number], lines[number + 1]
        if not title.strip() or not _decorates(under, title) or _RST_LINE.fullmatch(title):
            continue
        over = number > 0 and lines[number - 1] == under
        alone = number == 0 or not lines[number - 1].strip()
        if over or (alone and not title[0].isspace()):
            yield number, over


def _decorates(line: str, title: str) -> bool:
    """Tell whether a line can stand under a title: one punctuation character, as long as the title."""
    return bool(_RST_LINE.fullmatch(line)) and len(line) >= max(2, len(title.strip()))


def _lines(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of every line, line ends excluded."""
    spans, start = [], 0
    for newline in _NEWLINE.finditer(text):
        spans.append((start, newline.start()))
        start = newline.end()
    return [*spans, (start, len(text))]
