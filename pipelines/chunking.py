"""Documents -> chunks under a token budget, each with its exact place.

The encoder's own tokenizer counts every candidate as it will be embedded, its
title included, so that what is given to the encoder always fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import ClassVar, Literal, Protocol, TypeAlias, cast, get_args

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from pipelines.blocks import blocks
from pipelines.documents import Chunk, Document
from pipelines.errors import JSON, ChunkingError
from pipelines.sections import HeadingPaths, Section, packed_sections

Context: TypeAlias = Literal["title", "none"]
"""What stands before a chunk's text when it is embedded."""

MIN_TOKENS = 8
"""Smallest budget; under it a title leaves no room, and one emoji may take four tokens."""

CHUNKING_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)
"""What a document that cannot be cut may raise; it fails by itself, and the others go on."""

_BLOCK_PER_TOKEN = 36
"""Bytes per token of the budget that are split at once, at least: 9 to 18 chunks of English prose.

The splitter fills one chunk after the other, so an edit may move all chunks behind it up to the block's end. Shorter
blocks would end that sooner, but each has a last chunk that is half empty. The splitter's time grows with the square
of an unbroken run, such as base64, over the budget.
"""

_RULES = "rules"

_TITLE_SHARE = 4
"""A title takes at most one part in so many of the budget."""


class TokenBudget(Protocol):
    """The part of an encoder that chunking needs; `kvembed.KVEncoder` has it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the model, without padding or truncation."""

    @property
    def document_budget(self) -> int:
        """Content tokens that always fit beside the prompt."""


@dataclass(frozen=True, slots=True)
class ChunkingConfig:
    """How documents are cut; stored with a collection.

    Raises:
        ChunkingError: a field is not legal.
    """

    max_tokens: int = 256
    """Largest chunk as embedded, title included; an encoder with less room lowers it."""
    overlap_tokens: int = 0
    """How much of a chunk's end the next one may repeat, at most."""
    context: Context = "title"
    """"title" puts the document's title before chunks that do not begin with it; "none" does not."""
    rules: ClassVar[int] = 2
    """Version of the rules by which this package cuts; rises when it cuts the same text elsewhere.

    It is no choice, so it is no field: `to_dict` says it beside the fields, and a collection that says another
    number, or none, which means 1, was cut otherwise and is filled anew.
    """

    def __post_init__(self) -> None:
        if not _is_count(self.max_tokens) or self.max_tokens < MIN_TOKENS:
            raise ChunkingError(f"max_tokens is {self.max_tokens!r}; it must be a whole number, at least {MIN_TOKENS}")
        if not _is_count(self.overlap_tokens) or self.overlap_tokens > self.max_tokens // 2:
            raise ChunkingError(
                f"overlap_tokens is {self.overlap_tokens!r}; it must be a whole number from 0 to "
                f"{self.max_tokens // 2}, half of max_tokens"
            )
        if self.context not in get_args(Context):
            raise ChunkingError(f"context is {self.context!r}; legal are {', '.join(get_args(Context))}")

    def to_dict(self) -> dict[str, JSON]:
        """Return all fields and `rules` as JSON values; `from_dict` reads them back."""
        return {**asdict(self), "rules": self.rules}

    @classmethod
    def from_dict(cls, record: Mapping[str, JSON]) -> ChunkingConfig:
        """Read what `to_dict` wrote, now or under older rules; the result cuts by those of today.

        Raises:
            ChunkingError: an unknown field, an illegal value, or rules of a newer version of this package.
        """
        known = [field.name for field in fields(cls)]
        values = {name: value for name, value in record.items() if name != _RULES}
        if unknown := sorted(set(values) - set(known)):
            raise ChunkingError(f"unknown chunking fields {unknown}; legal are {known}")
        _check_rules(record.get(_RULES, 1), cls.rules)
        return cls(**values)  # type: ignore[arg-type]


class Chunker:
    """Cuts documents for one encoder.

    Raises:
        ChunkingError: the encoder has too little room for content.
    """

    def __init__(self, config: ChunkingConfig, encoder: TokenBudget) -> None:
        if encoder.document_budget < MIN_TOKENS:
            raise ChunkingError(
                f"the encoder has room for {encoder.document_budget} content tokens beside its prompt; "
                f"chunking needs at least {MIN_TOKENS}; raise EncoderConfig.max_length or shorten document_template"
            )
        self.config = config
        self.budget = min(config.max_tokens, encoder.document_budget)
        """Tokens of a chunk as embedded, at most; one single character that takes more stands alone."""
        self._tokenizer = encoder.tokenizer

    def chunks(self, document: Document) -> Iterator[Chunk]:
        """Cut one document, in order.

        Every character that is no white space is in some chunk; `document.text[start:end]` is the chunk's text. A
        document without such characters has no chunks.
        """
        title = self._title(document.title) if self.config.context == "title" else ""
        paths = HeadingPaths(document.headings)
        for index, (start, end) in enumerate(self._spans(document, title)):
            text = document.text[start:end]
            embedded = text if not title or _begins_with(text, title) else f"{title}\n{text}"
            yield Chunk(document.id, index, text, start, end, paths.at(start), embedded)

    def embedded_forms(self, title: str, text: str) -> Iterator[str]:
        """Yield what a chunk may have been embedded as; its content hash tells which it was.

        Args:
            title: Title of the chunk's document.
            text: The chunk's own text.
        """
        yield text
        if self.config.context == "title" and (shown := self._title(title)):
            yield f"{shown}\n{text}"

    def _spans(self, document: Document, title: str) -> Iterator[tuple[int, int]]:
        prefix = f"{title}\n" if title else ""
        taken = self._count(prefix)
        capacity = self.budget - taken

        # What the splitter takes it has just counted, and it is asked for once more below.
        @lru_cache(maxsize=256)
        def size(piece: str) -> int:
            return max(0, self._count(prefix + piece) - taken)

        text = document.text
        for section in packed_sections(text, document.headings, lambda part: size(part.strip()) <= capacity):
            for start, end in self._section_spans(document, section, size, capacity):
                yield from _fitting(text[start:end], start, size, capacity)

    def _section_spans(
        self, document: Document, section: Section, size: Callable[[str], int], capacity: int
    ) -> Iterator[tuple[int, int]]:
        """Yield the spans of one section; its heading stays with what follows it."""
        text, body = document.text, section.body
        heading = text[section.start : body]
        if not text[body : section.end].strip() or size(heading) > capacity // 2:
            heading, body = "", section.start
        taken = size(heading) if heading else 0
        overlap = min(self.config.overlap_tokens, (capacity - taken) // 2)
        splitter = _splitter(document, lambda piece: max(0, size(heading + piece) - taken), capacity - taken, overlap)
        led = not heading
        for first, last in blocks(text, body, section.end, _BLOCK_PER_TOKEN * self.budget):
            for offset, piece in splitter.chunk_indices(text[first:last]):
                yield (first + offset if led else section.start), first + offset + len(piece)
                led = True

    def _title(self, title: str) -> str:
        """Cut a title so that it takes its share of the budget and no more."""
        title = " ".join(title.split())
        share = self.budget // _TITLE_SHARE
        offsets = self._tokenizer.encode(title, add_special_tokens=False).offsets
        if len(offsets) > share:
            title = title[: offsets[share - 1][1]].rstrip()
        # A token more or less where the line break joins, or where the cut went through a character's bytes.
        while title and self._count(f"{title}\n") > share:
            title = title[:-1].rstrip()
        return title

    def _count(self, text: str) -> int:
        # The fast form computes no offsets, a tenth of the time.
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


def _splitter(
    document: Document, size: Callable[[str], int], capacity: int, overlap: int
) -> TextSplitter | MarkdownSplitter:
    kind = MarkdownSplitter if document.format == "markdown" else TextSplitter
    return kind.from_callback(size, capacity, overlap=overlap)


def _fitting(piece: str, start: int, size: Callable[[str], int], capacity: int) -> Iterator[tuple[int, int]]:
    """Yield the span of a piece, or of its halves where it does not fit.

    The splitter takes a piece of no more bytes than the capacity unseen, but tokenizers that mark word starts can
    make more tokens than bytes.
    """
    if len(piece) > 1 and size(piece) > capacity:
        half = len(piece) // 2
        yield from _fitting(piece[:half], start, size, capacity)
        yield from _fitting(piece[half:], start + half, size, capacity)
    elif piece.strip():
        yield start, start + len(piece)


def _begins_with(text: str, title: str) -> bool:
    """Tell whether a chunk's first line has the title, which then need not stand before it again."""
    return title in " ".join(text.partition("\n")[0].split())


def _check_rules(value: JSON, newest: int) -> None:
    if not _is_count(value) or value == 0:
        raise ChunkingError(f"{_RULES} is {value!r}; it must be a whole number from 1 to {newest}")
    if cast("int", value) > newest:
        raise ChunkingError(
            f"the documents were cut by rules {value!r} and this kvembed knows them up to {newest}; upgrade kvembed"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
