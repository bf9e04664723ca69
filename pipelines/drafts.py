"""Documents on their way into a collection, and what was done with them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from pipelines import telemetry
from pipelines.ledger import LedgerEntry
from pipelines.points import payload_hash, text_hash
from pipelines.report import QuarantinedDocument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipelines.documents import Chunk, Document, Point, RejectedDocument
    from pipelines.errors import JSON
    from pipelines.ledger import Quarantine


@dataclass(slots=True, eq=False)
class Draft:
    """A document on its way into the collection.

    Attributes:
        document: What is written.
        content_hash: Of it.
        before: What the ledger says of it.
        donor: What the ledger says of the document it was before it got another id.
        point_ids: Points of the new form so far, in order.
        digests: `points.payload_digest` of every point so far, by the chunk's index.
        moved: Payloads of points that keep their vector and stand elsewhere in the new form.
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
    donor: LedgerEntry | None = None
    point_ids: list[str] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)
    moved: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
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

    def entry(self, run: int) -> LedgerEntry:
        """Return what the ledger keeps of the document once it is committed by the run of this number."""
        return LedgerEntry(
            document_id=self.document.id,
            source=self.document.source,
            content_hash=self.content_hash,
            text_hash=text_hash(self.document.text),
            point_ids=tuple(self.point_ids),
            payload_hash=payload_hash(self.digests[index] for index in range(len(self.point_ids))),
            generation=run,
            truncated_chunks=self.truncated_chunks,
            truncated_tokens=self.truncated_tokens,
        )

    def setback(self, run: int) -> LedgerEntry:
        """Return what the ledger keeps of the document when its new form failed: the old one, if there is one."""
        before = self.before or LedgerEntry(self.document.id, self.document.source)
        return replace(before, quarantine=self.failure, generation=run)


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A chunk that waits to be encoded, and the point it will be."""

    draft: Draft
    chunk: Chunk
    point_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A point that needs no encoding."""

    draft: Draft
    point: Point


@dataclass(slots=True)
class Tally:
    """What a writer did."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    empty: int = 0
    deleted: int = 0
    rejected: int = 0
    """Documents that the source itself could not read, and that were not known for it."""
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

    def count(self, draft: Draft, *, moved: bool) -> None:
        """Count a document that was committed; `moved` when it was searchable under another id."""
        known = draft.before is not None and draft.before.committed
        self.changed += known
        self.moved += moved
        self.added += not known and not moved
        self.empty += not draft.point_ids
        self.chunks_reused += draft.reused
        self.truncated_chunks += draft.truncated_chunks
        self.truncated_tokens += draft.truncated_tokens
        outcome = "changed" if known else "moved" if moved else "added"
        telemetry.committed(outcome, reused=draft.reused, truncated=draft.truncated_tokens)

    def delete(self, documents: int) -> None:
        """Count documents that are gone from the source and from the collection."""
        self.deleted += documents
        telemetry.deleted(documents)

    def fail(self, found: QuarantinedDocument) -> None:
        """Count a document whose new form could not be indexed."""
        self.quarantined.append(found)
        telemetry.quarantined(found)

    def reject(self, found: Iterable[RejectedDocument]) -> None:
        """Count documents that the source itself could not read."""
        for one in found:
            self.rejected += 1
            telemetry.quarantined(QuarantinedDocument(one.id, one.source, one.content_hash, one.stage, one.reason))

    def add(self, other: Tally) -> None:
        """Count what another writer of the same run did too."""
        for part in fields(self):
            if isinstance(there := getattr(self, part.name), int):
                setattr(self, part.name, there + getattr(other, part.name))
        for outcome, documents in (("added", other.added), ("changed", other.changed), ("moved", other.moved)):
            for _ in range(documents):
                telemetry.committed(outcome, reused=0, truncated=0)
        for found in other.quarantined:
            self.fail(found)
        telemetry.worked(
            other.seconds["embed"],
            chunks=other.chunks_embedded,
            tokens=other.tokens,
            reused=other.chunks_reused,
            truncated=other.truncated_tokens,
        )
        for stage, spent in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def taken(self) -> Tally:
        """Return what was counted so far, and begin anew."""
        before, fresh = replace(self), Tally()
        for part in fields(self):
            setattr(self, part.name, getattr(fresh, part.name))
        return before

    def quarantined_beside(self, known: Iterable[QuarantinedDocument]) -> tuple[QuarantinedDocument, ...]:
        """Return what the last comparison found, then what failed in the run, neither of them twice.

        Two documents of one id are two, which their content tells.
        """
        failed = {found.document_id: found for found in self.quarantined}
        forms = {(found.document_id, found.content_hash) for found in failed.values()}
        others = [found for found in known if (found.document_id, found.content_hash) not in forms]
        return (*others, *failed.values())
