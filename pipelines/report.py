"""What a run did, and what a run would do, as records a program and a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from pipelines.errors import JSON


class Progress(Protocol):
    """Told how far something is.

    `stage` is "plan", "lease", "select_layers", "fit_transform", "embed", "delete" or "verify" of a run, "check_points"
    or "check_vectors" of a verification.
    """

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Take note of `done` documents, points or vectors of `total`; None where the total is not known yet."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Take no note."""


def named_progress(progress: Progress | None, name: str) -> Progress | None:
    """Put "name: " before the stages that are told of."""
    if progress is None:
        return None

    def tell(stage: str, done: int, total: int | None) -> None:
        progress(f"{name}: {stage}", done, total)

    return tell


@dataclass(frozen=True, slots=True)
class QuarantinedDocument:
    """A document whose present form is not searchable, and why."""

    document_id: str
    source: str
    content_hash: str
    stage: str
    """read, parse, chunk, embed or write."""
    reason: str


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What one run would do; the run then does this and nothing more."""

    collection: str
    source: str
    added: tuple[str, ...]
    """Ids of documents without a searchable form."""
    changed: tuple[str, ...]
    """Ids of documents whose searchable form is another one."""
    unchanged: int
    moved: tuple[tuple[str, str], ...]
    """(Old id, new id) of documents whose text is the same under another id."""
    deleted: tuple[str, ...]
    """Ids of documents that are gone from the source."""
    deleted_copies: int
    """Of those, how many have a text that the source still has under another id."""
    quarantined: tuple[QuarantinedDocument, ...]
    """Documents of the source that cannot be indexed as they are, known from before or new."""
    known: int
    """Documents with a searchable form before the run."""
    rebuild: Mapping[str, tuple[JSON, JSON]] = field(default_factory=dict)
    """Why a new generation is built: field -> (stored, given); empty when the collection is updated."""
    chunks_to_embed: int | None = None
    """None where the plan was made without cutting documents."""
    tokens_to_embed: int | None = None
    """Tokens the model will see, prompts included."""
    seconds_to_embed: float | None = None
    """From the speed of the last run into this collection, or into the one that it replaces if the model is the same;
    None where that run embedded nothing, was cut short, or was none."""

    @property
    def changes_nothing(self) -> bool:
        """No document would be added, changed, moved or deleted, and nothing rebuilt."""
        return not (self.added or self.changed or self.moved or self.deleted or self.rebuild)

    def to_dict(self) -> dict[str, JSON]:
        """Return the plan as JSON values."""
        return _record(self)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one run did."""

    collection: str
    physical: str
    """The Qdrant collection behind the name."""
    source: str
    documents_added: int
    documents_changed: int
    documents_moved: int
    """Documents with another id and the same text; their vectors were taken over."""
    documents_unchanged: int
    documents_deleted: int
    documents_quarantined: int
    documents_empty: int
    """Added or changed documents without any text to search; no points stand for them."""
    quarantined: tuple[QuarantinedDocument, ...]
    chunks_embedded: int
    chunks_reused: int
    """Chunks of changed and moved documents whose text was embedded before."""
    points_written: int
    points_updated: int
    """Points whose payload changed and whose vector stayed."""
    points_deleted: int
    tokens: int
    """Tokens that went through the model, prompts included."""
    truncated_chunks: int
    truncated_tokens: int
    layers: tuple[int, ...]
    fingerprint: str
    rebuilt: bool = False
    """The name stands for a new generation, built by another encoder or chunking."""
    replaced: str | None = None
    """The collection that the name stood for before; `rollback` returns to it, if it was made here."""
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage: plan, select_layers, fit_transform, parse, chunk, embed, write."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the report as JSON values."""
        return _record(self)


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A chunk that was found."""

    document_id: str
    score: float
    """Cosine similarity, -1 to 1."""
    text: str
    """The chunk as it stands in the document."""
    metadata: Mapping[str, JSON]

    def to_dict(self) -> dict[str, JSON]:
        """Return the hit as JSON values."""
        return _record(self)


def _record(value: IngestPlan | IngestReport | SearchHit) -> dict[str, JSON]:
    return {key: _plain(inner) for key, inner in asdict(value).items()}


def _plain(value: object) -> JSON:
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in cast("Sequence[object]", value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return cast("JSON", value)
