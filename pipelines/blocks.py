"""A long text -> blocks whose ends depend on the text around them, so that an edit moves no end far from it.

Cut every so many characters from its start, a text with one word more has every later block, and with it every later
chunk, begin elsewhere. Backup programs meet the same over bytes and let the content choose, where a rolling hash of
the last bytes falls under a bound (FastCDC, Xia et al., USENIX ATC 2016; restic does so too). Here a block may end only
where a text may end, and the place with the smallest hash is taken first, then the next that is far enough from those
taken. That keeps sizes within a factor of two, where a bound on the hash lets them vary tenfold, and an edit still
changes only the ends near it: a place is decided by those of smaller hash within reach, theirs by yet smaller ones.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

_BOUNDARIES = (
    re.compile(r"\n[ \t\r]*\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?…][\"'”’)\]]*\s|[。！？]"),
    re.compile(r"\s"),
    re.compile(r"[!-/:-@\[-`{-~]"),
)
"""Where a block may end, best first: blank lines, lines, sentences, words, ASCII punctuation."""

_HASHES = (1 << 28, 1 << 32)
"""Places with a hash below the first are looked at before all others, so that few are held in memory at once."""

_AROUND = 64
"""Characters on either side of a place that decide its hash: enough to tell repeated lines apart, and not all of
them change with a word."""


def blocks(text: str, start: int, end: int, shortest: int) -> Iterator[tuple[int, int]]:
    """Yield spans that together are `text[start:end]`.

    Args:
        text: All of it; the 64 characters around a place decide whether a block ends there.
        start: First character of the first block.
        end: One past the last character of the last one.
        shortest: Bytes of UTF-8 that a block has at least. It has less than three times as many, and in text of many
            blank lines less than twice; where there is no boundary in that much text it is cut by distance.
    """
    edges, longest = [start, end], 2 * shortest
    for boundary in _BOUNDARIES:
        spans = pairwise(edges)
        edges = [at for span in spans for at in _starts(text, span, boundary, shortest, longest)] + [end]
        longest = 3 * shortest  # a long block is a lesser evil than one that ends in the middle of a paragraph
    for first, last in pairwise(edges):
        while last - first >= longest:
            yield first, first + shortest
            first += shortest
        yield first, last


def _starts(text: str, span: tuple[int, int], boundary: re.Pattern[str], shortest: int, longest: int) -> Iterator[int]:
    """Yield where blocks start that divide a span at one kind of boundary; a span shorter than `longest` is one."""
    first, last = span
    edges = [first, last]
    if _size(text, first, last) >= longest:
        for bound in _HASHES:
            starts = [at for part in pairwise(edges) for at in _taken(text, *part, boundary, shortest, bound)]
            edges = [*starts, last]
    yield from edges[:-1]


def _taken(text: str, first: int, last: int, boundary: re.Pattern[str], shortest: int, bound: int) -> list[int]:
    """Return the start of a span, and the places in it that are taken, of those with a hash below `bound`."""
    if _size(text, first, last) < 2 * shortest:
        return [first]
    places = []
    at, offset = first, 0
    for found in boundary.finditer(text, first, last):
        offset += _size(text, at, found.end())
        at = found.end()
        if (rank := _hash(text, at)) < bound:
            places.append((rank, offset, at))
    taken = [(0, first), (offset + _size(text, at, last), last)]
    for _, offset, at in sorted(places):
        after = bisect_left(taken, (offset, at))
        if offset - taken[after - 1][0] >= shortest and taken[after][0] - offset >= shortest:
            taken.insert(after, (offset, at))
    return [at for _, at in taken[:-1]]


def _size(text: str, first: int, last: int) -> int:
    # In bytes, as a token of any script takes about as many of them, and of characters it does not.
    return len(text[first:last].encode("utf-8"))


def _hash(text: str, at: int) -> int:
    return zlib.crc32(text[max(0, at - _AROUND) : at + _AROUND].encode("utf-8"))
