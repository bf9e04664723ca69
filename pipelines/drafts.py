"""Documents on their way into a collection, and what was done with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.documents import Chunk, Document
    from pipelines.ledger import LedgerEntry, Quarantine
    from pipelines.report import QuarantinedDocument


@dataclass(slots=True, eq=False)
class Draft:
    """A document on its way into the collection.

    Attributes:
        document: What is written.
        content_hash: Of it.
        before: What the ledger says of it.
        point_ids: Points of the new form so far, in order.
        digests: `points.payload_digest` of every point so far, by the chunk's index.
        waiting: Chunks that are cut and not encoded yet.
        complete: All chunks are cut.
        failure: Why it cannot be committed.
        reused: Chunks that keep their vector.
        truncated_chunks: Chunks that were cut to fit.
        truncated_tokens: Content tokens cut off them.
    """

    document: Document
    content_hash: str
    before: LedgerEntry | None
    point_ids: list[str] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)
    waiting: int = 0
    complete: bool = False
    failure: Quarantine | None = None
    reused: int = 0
    truncated_chunks: int = 0
    truncated_tokens: int = 0

    @property
    def old_ids(self) -> tuple[str, ...]:
        """Points of the form that is searchable now."""
        return self.before.point_ids if self.before else ()

    def count_cut(self, tokens: int) -> None:
        """Note the content tokens that one chunk lost."""
        self.truncated_chunks += tokens > 0
        self.truncated_tokens += tokens


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A chunk that waits to be encoded, and the point it will be."""

    draft: Draft
    chunk: Chunk
    point_id: str


@dataclass(slots=True)
class Tally:
    """What a writer did."""

    added: int = 0
    changed: int = 0
    empty: int = 0
    deleted: int = 0
    chunks_embedded: int = 0
    chunks_reused: int = 0
    points_written: int = 0
    points_updated: int = 0
    points_deleted: int = 0
    tokens: int = 0
    truncated_chunks: int = 0
    truncated_tokens: int = 0
    quarantined: list[QuarantinedDocument] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"chunk": 0.0, "embed": 0.0, "write": 0.0})
