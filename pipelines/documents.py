"""The records that flow one way: Document -> Chunk -> EncodedChunk -> Point.

All are frozen and checked when made, so a later stage never meets half a record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import JSON

Stage: TypeAlias = Literal["read", "parse", "chunk", "embed", "write"]
"""Where a document can fail."""

TextFormat: TypeAlias = Literal["plain", "markdown"]
"""How a document's text may be cut: at blank lines, or at Markdown's own structure."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A section title and where it stands."""

    start: int
    """Character offset in the document's text of the line that carries the heading."""
    level: int
    """Depth, 1 for the outermost."""
    title: str

    def __post_init__(self) -> None:
        if self.start < 0 or self.level < 1:
            raise ValueError(
                f"heading {self.title!r} has start {self.start} and level {self.level}; "
                "start counts from 0 and level from 1"
            )
        _check_text("heading title", self.title)


@dataclass(frozen=True, slots=True)
class Document:
    """One text to be found again.

    Raises:
        ValueError: a field that cannot be stored and read back as it is; the message names it.
    """

    id: str
    """Kept exactly as given; any non-empty Unicode text, of any length."""
    text: str
    source: str
    """Where it came from, as a reader would name it; the same on every machine."""
    title: str = ""
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    """In order of `start`."""
    format: TextFormat = "plain"

    def __post_init__(self) -> None:
        _check_id("document id", self.id)
        for name in ("text", "source", "title"):
            _check_text(f"document {name}", getattr(self, name))
        if self.format not in get_args(TextFormat):
            raise ValueError(f"document format is {self.format!r}; legal are {', '.join(get_args(TextFormat))}")
        _canonical(self.metadata)

    @property
    def content_hash(self) -> str:
        """SHA-256 of everything but the id, in an encoding no two contents share; 64 hex digits."""
        headings: JSON = [[part.start, part.level, part.title] for part in self.headings]
        content: JSON = [self.title, self.text, self.source, self.format, headings, self.metadata]
        return hashlib.sha256(_canonical(content)).hexdigest()


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """A document that cannot be used, and why; yielded by a source beside its documents."""

    id: str
    source: str
    content_hash: str
    stage: Stage
    reason: str
    """What came, what is legal, what to do; one sentence for a person."""
    anonymous: bool = False
    """Its own id cannot be read and `id` says where it stands; it may be any document that the source seems to lack."""

    def __post_init__(self) -> None:
        _check_id("rejected document's id", self.id)
        _check_text("rejected document's source", self.source)
        _check_text("rejected document's reason", self.reason)
        if self.stage not in get_args(Stage):
            raise ValueError(f"stage is {self.stage!r}; legal are {', '.join(get_args(Stage))}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document, with its exact place in it."""

    document_id: str
    index: int
    """Position among the document's chunks, from 0."""
    text: str
    """`document.text[start:end]`, to the character."""
    start: int
    """First character."""
    end: int
    """One past the last character."""
    heading_path: tuple[str, ...]
    """Titles of the sections around `start`, outermost first."""
    embedded_text: str
    """What the encoder is given: the document's title where it helps, then `text`."""

    def __post_init__(self) -> None:
        _check_id("document id", self.document_id)
        if self.index < 0 or self.start < 0 or self.end - self.start != len(self.text):
            raise ValueError(
                f"chunk {self.index} spans {self.start}..{self.end} with {len(self.text)} characters; "
                "index and start count from 0 and text must be document.text[start:end]"
            )

    @property
    def content_hash(self) -> str:
        """SHA-256 of the embedded text, 64 hex digits."""
        return hashlib.sha256(self.embedded_text.encode("utf-8")).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedChunk:
    """A chunk with its vector."""

    chunk: Chunk
    vector: NDArray[np.float32]
    """(E,) float32, finite."""
    tokens: int
    """Tokens the encoder saw, prompt included."""
    truncated_tokens: int = 0
    """Content tokens that did not fit and were left out."""

    def __post_init__(self) -> None:
        _check_vector(self.vector)
        if self.tokens < 0 or self.truncated_tokens < 0:
            raise ValueError(
                f"chunk {self.chunk.index} of {self.chunk.document_id!r} has {self.tokens} tokens and "
                f"{self.truncated_tokens} truncated; both are counts, at least 0"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """What the store keeps of a chunk."""

    id: str
    """A UUID in canonical form; the same for the same chunk on every machine and in every run."""
    vector: NDArray[np.float32]
    """(E,) float32, finite."""
    payload: Mapping[str, JSON]

    def __post_init__(self) -> None:
        if str(UUID(self.id)) != self.id:
            raise ValueError(f"point id is {self.id!r}; it must be a UUID in canonical form")
        _check_vector(self.vector)


def printable(text: str) -> str:
    """Return text that can be stored and shown: half characters are spelled out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _check_id(name: str, value: object) -> None:
    _check_text(name, value)
    if not value:
        raise ValueError(f"{name} is empty; every document needs an id of at least one character")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__} {value!r:.80}; it must be a str")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has the lone surrogate U+{ord(value[error.start]):04X} at character {error.start}, "
            "which is half a character; repair it where the text is made"
        ) from None


def _check_vector(vector: NDArray[np.float32]) -> None:
    if vector.ndim != 1 or vector.dtype != np.float32 or not np.isfinite(vector).all():
        raise ValueError(
            f"vector has shape {vector.shape} and dtype {vector.dtype}; "
            "it must be one-dimensional float32 with finite numbers only"
        )


def _canonical(value: JSON) -> bytes:
    """Encode so that equal values have equal bytes and unequal values have not."""
    try:
        text = json.dumps(
            _plain(value),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"metadata cannot be written as JSON: {error}; use text, finite numbers, true, false, null, "
            "lists and objects with text keys"
        ) from None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"key {odd[0]!r} is no text")
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"an integer of {value.bit_length() + 1} bits does not fit the 64 of Qdrant; write it as text")
    return value
