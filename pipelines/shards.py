"""A plan cut into shards: runs of documents that take a device about a minute, each with a name of its own.

Documents are not cut into chunks to find out; their length in UTF-8 tells well enough how many there will be. A shard
keeps no documents. Whoever reads the source again knows by a document's id which shard it is in, so that an order that
changed meanwhile loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.documents import Document

LEAST, MOST = 2_000, 20_000
"""Chunks of a shard: below, handing it out costs more than it is worth; above, too much is at stake at a time."""
_USUAL = 5_000
_SECONDS = 60.0
_BYTES = 4.0  # of UTF-8 a token, about right for English and for scripts of three bytes a character


@dataclass(frozen=True, slots=True)
class Shard:
    """Documents of a plan that stand next to each other in the source.

    Attributes:
        number: Position among the plan's shards, from 0.
        first: Position of its first document among those that are to be written.
        documents: How many it has, at least 1.
        chunks: About how many chunks they make.
        revision: Hash of their ids and contents, in order; 32 hexadecimal digits.
    """

    number: int
    first: int
    documents: int
    chunks: int
    revision: str

    def id(self, configuration: str) -> str:
        """Name it: the same contents in the same place, embedded in the same way, are the same shard.

        Args:
            configuration: Names encoder, chunking and version, as `Target.pipeline` does.

        Returns:
            32 hexadecimal digits.
        """
        return _hash(self.revision, self.first, self.documents, configuration)


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """Shards that stand next to each other, written as one step.

    Attributes:
        number: Position among the groups, from 0.
        first: Its first shard.
        last: Its last shard.
        documents: Of all its shards.
        chunks: About how many.
        id: Hash of the shards' ids; 32 hexadecimal digits.
    """

    number: int
    first: int
    last: int
    documents: int
    chunks: int
    id: str


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """All shards of a plan.

    Attributes:
        shards: In the order of the source.
        of: Document id -> number of its shard, for every document that is to be written.
    """

    shards: tuple[Shard, ...] = ()
    of: Mapping[str, int] = field(default_factory=dict)

    def groups(self, most: int, configuration: str) -> list[ShardGroup]:
        """Put the shards into groups of nearly equal numbers of them.

        Args:
            most: Groups, at least 1.
            configuration: As `Shard.id` takes it.

        Raises:
            ValueError: most is less than 1.
        """
        if most < 1:
            raise ValueError(f"most is {most}; a plan is put into at least 1 group")
        count = min(most, len(self.shards))
        cuts = [len(self.shards) * number // count for number in range(count + 1)] if count else []
        parts = [self.shards[start:end] for start, end in pairwise(cuts)]
        return [_group(number, part, configuration) for number, part in enumerate(parts)]


class ShardCutter:
    """Takes the documents that are to be written, one after the other, and cuts where a shard is full.

    Args:
        chunk_tokens: Tokens of a chunk, at most.
        rate: Chunks that a device embedded per second when last measured; None where it never was.
        least: Chunks that a shard has unless it is the last, or the next document would make it larger than `most`.
        most: Chunks that a shard has unless it is one document.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, chunk_tokens: int, rate: float | None = None, *, least: int = LEAST, most: int = MOST) -> None:
        if chunk_tokens < 1 or not 1 <= least <= most:
            raise ValueError(
                f"chunk_tokens is {chunk_tokens}, least is {least}, most is {most}; "
                "chunk_tokens is at least 1 and 1 <= least <= most"
            )
        self.target = min(max(int(rate * _SECONDS) if rate else _USUAL, least), most)
        self._most = most
        self._chunk_tokens = chunk_tokens
        self._shards: list[Shard] = []
        self._of: dict[str, int] = {}
        self._first = self._chunks = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def note(self, document: Document) -> None:
        """Take the next document that is to be written; its id is new."""
        chunks = estimated_chunks(document, self._chunk_tokens)
        count = len(self._of) - self._first
        if count and (self._chunks >= self.target or self._chunks + chunks > self._most):
            self._close()
        self._of[document.id] = len(self._shards)
        self._chunks += chunks
        self._digest.update(_encoded(document.id, document.content_hash))

    def plan(self) -> ShardPlan:
        """Return the shards of all documents so far."""
        if len(self._of) > self._first:
            self._close()
        return ShardPlan(tuple(self._shards), self._of)

    def _close(self) -> None:
        documents = len(self._of) - self._first
        self._shards.append(Shard(len(self._shards), self._first, documents, self._chunks, self._digest.hexdigest()))
        self._first, self._chunks = len(self._of), 0
        self._digest = hashlib.blake2b(digest_size=16)


def estimated_chunks(document: Document, chunk_tokens: int) -> int:
    """Return about how many chunks a document makes, at least 1.

    Args:
        document: Any.
        chunk_tokens: Tokens of a chunk, at most.
    """
    return max(1, -int(-len(document.text.encode("utf-8")) // (chunk_tokens * _BYTES)))


def _group(number: int, part: Sequence[Shard], configuration: str) -> ShardGroup:
    return ShardGroup(
        number,
        part[0].number,
        part[-1].number,
        sum(shard.documents for shard in part),
        sum(shard.chunks for shard in part),
        _hash(*(shard.id(configuration) for shard in part)),
    )


def _hash(*parts: str | int) -> str:
    return hashlib.blake2b(_encoded(*parts), digest_size=16).hexdigest()


def _encoded(*parts: str | int) -> bytes:
    return json.dumps(parts, ensure_ascii=True).encode("ascii")
