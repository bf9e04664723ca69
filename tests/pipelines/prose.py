"""Long texts, and edits in the middle of them; the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import TypeAlias

Edit: TypeAlias = Callable[[str, Random], str]

LAYOUTS = {"headings": " ", "paragraphs": "\n\n", "lines": "\n", "sentences": " "}
"""Name -> what stands between paragraphs; the first has a heading before every 250 of them."""

_VOWELS, _CONSONANTS = "aeiou", "bcdfghklmnprstvwz"
_SECTION = 250
_SENTENCES = 5
"""How many are moved or deleted where nothing marks a paragraph."""


def prose(seed: int, words: int, layout: str = "paragraphs") -> str:
    """Write some text of made-up words in sentences of 4 to 14 and paragraphs of 1 to 3 sentences."""
    random = Random(seed)
    vocabulary = [_word(random) for _ in range(600)]
    paragraphs: list[str] = []
    written = 0
    while written < words:
        lengths = [random.randint(4, 14) for _ in range(random.randint(1, 3))]
        sentences = [" ".join(random.choices(vocabulary, k=length)).capitalize() + "." for length in lengths]
        paragraphs.append(" ".join(sentences))
        written += sum(lengths)
    if layout == "headings":
        paragraphs[::_SECTION] = [f"\n\n## Part\n\n{first}" for first in paragraphs[::_SECTION]]
    return LAYOUTS[layout].join(paragraphs)


def word_inserted(text: str, random: Random) -> str:
    at = random.choice(_places(text, r"\b \b"))
    return f"{text[:at]}inserted {text[at:]}"


def sentence_inserted(text: str, random: Random) -> str:
    at = random.choice(_places(text, r"\. "))
    return f"{text[:at]}This sentence was put here later to say one more thing. {text[at:]}"


def paragraph_deleted(text: str, random: Random) -> str:
    start, end = _paragraph(text, random)
    return text[:start] + text[end:]


def paragraph_moved(text: str, random: Random) -> str:
    start, end = _paragraph(text, random)
    rest = text[:start] + text[end:]
    at = random.choice(_places(rest, _paragraph_end(rest)))
    return rest[:at] + text[start:end] + rest[at:]


EDITS: dict[str, Edit] = {
    edit.__name__: edit for edit in (word_inserted, sentence_inserted, paragraph_deleted, paragraph_moved)
}


def _word(random: Random) -> str:
    return "".join(random.choice(_CONSONANTS) + random.choice(_VOWELS) for _ in range(random.randint(1, 4)))


def _places(text: str, pattern: str) -> list[int]:
    """Find where matches end in the middle half."""
    return [found.end() for found in re.compile(pattern).finditer(text, len(text) // 4, 3 * len(text) // 4)]


def _paragraph(text: str, random: Random) -> tuple[int, int]:
    pattern = _paragraph_end(text)
    places = _places(text, pattern)
    length = _SENTENCES if pattern == r"\. " else 1
    first = random.randrange(len(places) - length)
    return places[first], places[first + length]


def _paragraph_end(text: str) -> str:
    return next(mark for mark in (r"\n\n", r"\n", r"\. ") if len(re.findall(mark, text)) > 100)
