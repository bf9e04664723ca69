"""JSONL files -> articles: a title and its sentences, ready to be tokenised."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ARTICLE_CHARACTERS = 5_000
"""Longer texts are cut at paragraphs into several articles of at most about this length."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[A-Z0-9])|\n+")
_MARKUP_ONLY = re.compile(r"^[\W_]+$")


class CorpusError(ValueError):
    """A corpus file cannot be read; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Article:
    """A text about one thing.

    The title may be empty; sentences are in reading order and never empty.
    """

    title: str
    sentences: tuple[str, ...]


def read_articles(paths: list[Path]) -> Iterator[Article]:
    """Stream articles from JSONL files, plain or xz-compressed.

    Args:
        paths: files whose lines are objects with ``text`` and optionally ``title``.

    Raises:
        CorpusError: a file is missing, is not JSONL, or a line has no text.
    """
    for path in paths:
        for title, text in read_texts(path):
            yield from _articles(title, text)


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Stream (title, text) of one JSONL file; the title may be empty.

    Raises:
        CorpusError: as ``read_articles``.
    """
    try:
        opened = lzma.open if path.suffix == ".xz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _parse_line(line, path, number)
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {path}: {error}; pass JSONL files, plain or .xz, in UTF-8") from error


def _parse_line(line: str, path: Path, number: int) -> tuple[str, str]:
    try:
        record = json.loads(line)
        return str(record.get("title") or ""), str(record["text"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(
            f"{path}, line {number}: not an object with a 'text' field ({error!r}); "
            'each line must look like {"title": "...", "text": "..."}'
        ) from error


def _articles(title: str, text: str) -> Iterator[Article]:
    if len(text) <= 1.2 * ARTICLE_CHARACTERS and title:
        yield Article(title, _sentences(text))
        return
    for piece in _pieces(text):
        sentences = _sentences(piece)
        if len(sentences) > 1 and not title:
            yield Article(sentences[0].strip("#=*~- "), sentences[1:])
        elif sentences:
            yield Article(title, sentences)


def _pieces(text: str) -> Iterator[str]:
    """Cut at headings and blank lines, never longer than an article unless a paragraph is."""
    kept: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text):
        heading = paragraph.lstrip().startswith("#")
        if kept and (size + len(paragraph) > ARTICLE_CHARACTERS or (heading and size > 800)):
            yield "\n\n".join(kept)
            kept, size = [], 0
        kept.append(paragraph)
        size += len(paragraph)
    if kept:
        yield "\n\n".join(kept)


def _sentences(text: str) -> tuple[str, ...]:
    parts = (part.strip() for part in _SENTENCE_END.split(text))
    return tuple(part for part in parts if part and not _MARKUP_ONLY.match(part))
