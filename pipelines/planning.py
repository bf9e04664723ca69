"""The source against the ledger -> what to add, change and delete; nothing is written here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from pipelines.documents import Document, RejectedDocument
from pipelines.errors import DeletionGuardError
from pipelines.ledger import LedgerEntry, Quarantine
from pipelines.report import IngestPlan, Progress, QuarantinedDocument

if TYPE_CHECKING:
    from pipelines.ledger import Ledger
    from pipelines.sources import Source

F = TypeVar("F", bound=Document | RejectedDocument)
Delete: TypeAlias = Literal["guarded", "all", "none"]

_BATCH = 256
_CHARACTERS = 4_000_000
_NAMED = 5


@dataclass(frozen=True, slots=True)
class DeletionGuard:
    """How many documents one run may delete unasked: never all of them."""

    free: int = 5
    """Up to this many need no asking while others stay, so that small collections stay easy to use."""
    share: float = 0.20
    """Above `free`, the largest share of the known documents."""
    count: int = 100
    """The largest number, whatever the share."""

    def allows(self, doomed: int, known: int) -> bool:
        """Tell whether `doomed` of `known` documents may go without asking."""
        if doomed >= known:
            return doomed == 0
        return doomed <= self.free or (doomed <= self.count and doomed <= self.share * known)


@dataclass(slots=True)
class Survey:
    """One pass over the source, compared with the ledger.

    Attributes:
        pipeline: Hash of everything that points depend on, the version of this package included.
        ledger: What is known; None where the collection does not exist yet.
        in_flight: Documents that a run which was cut short may have left half written; they count as changed.
        damaged: Documents that lack points; they count as changed.
    """

    pipeline: str
    ledger: Ledger | None
    in_flight: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: int = 0
    quarantined: list[QuarantinedDocument] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)
    fresh_rejections: list[RejectedDocument] = field(default_factory=list)
    known: int = 0
    doomed: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    """Quarantined documents that never had a searchable form and are gone; deleting them deletes nothing."""
    _seen: set[bytes] = field(default_factory=set)

    def run(
        self,
        source: Source,
        progress: Progress,
        look: Callable[[Document, bool], None] | None = None,
    ) -> None:
        """Read the source to its end, then find what is gone.

        Memory grows with the ids alone. A source that fails raises, and is never taken for an empty one.

        Args:
            source: What to compare.
            progress: Told about each batch.
            look: Called with every readable document, and whether it is to be written.
        """
        for batch in text_batches(source.documents(), _BATCH):
            self._compare(batch, look)
            progress("plan", len(self._seen), None)
        if self.ledger is not None:
            self._find_gone(self.ledger.scan())

    def _compare(
        self, batch: Sequence[Document | RejectedDocument], look: Callable[[Document, bool], None] | None
    ) -> None:
        ids = [found.id for found in batch]
        entries = self.ledger.get(ids, brief=True) if self.ledger is not None else {}
        for found in batch:
            if not first_sighting(self._seen, found.id):
                self.quarantined.append(duplicate(found))
            elif isinstance(found, RejectedDocument):
                self._reject(found, entries.get(found.id))
            else:
                wanted = self._judge(found, entries.get(found.id))
                if look is not None:
                    look(found, wanted)

    def _judge(self, document: Document, entry: LedgerEntry | None) -> bool:
        if entry is None or (not entry.committed and entry.quarantine is None):
            self.added.append(document.id)
            return True
        content_hash = document.content_hash
        why = entry.quarantine
        if why and why.pipeline == self.pipeline and why.content_hash == content_hash:
            self.quarantined.append(still_quarantined(document.id, document.source, why))
            return False
        same = entry.content_hash == content_hash and entry.settled and why is None
        if same and document.id not in self.in_flight and document.id not in self.damaged:
            self.unchanged += 1
            return False
        (self.changed if entry.committed else self.added).append(document.id)
        return True

    def _reject(self, found: RejectedDocument, entry: LedgerEntry | None) -> None:
        self.rejected.add(found.id)
        self.quarantined.append(
            QuarantinedDocument(found.id, found.source, found.content_hash, found.stage, found.reason)
        )
        if entry is None or entry.quarantine != quarantine_of(found, self.pipeline):
            self.fresh_rejections.append(found)

    def _find_gone(self, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            self.known += entry.committed
            if not was_seen(self._seen, entry.document_id):
                (self.doomed if entry.committed else self.forgotten).append(entry.document_id)

    def plan(self, collection: str, source: str, delete: Delete) -> IngestPlan:
        """Return what the comparison says is to be done."""
        return IngestPlan(
            collection=collection,
            source=source,
            added=tuple(self.added),
            changed=tuple(self.changed),
            unchanged=self.unchanged,
            deleted=tuple(sorted(self.doomed)) if delete != "none" else (),
            quarantined=tuple(self.quarantined),
            known=self.known,
        )


def text_batches(found: Iterable[F], count: int) -> Iterator[list[F]]:
    """Cut what a source yields into lists of at most `count`, shorter where the documents are long."""
    batch: list[F] = []
    characters = 0
    for item in found:
        batch.append(item)
        characters += len(item.text) if isinstance(item, Document) else 0
        if len(batch) >= count or characters >= _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def check_deletions(plan: IngestPlan, delete: Delete, guard: DeletionGuard) -> None:
    """Refuse a plan that would delete more than the guard allows.

    Raises:
        DeletionGuardError: naming share, count and the first ids.
    """
    if delete == "guarded" and not guard.allows(len(plan.deleted), plan.known):
        raise DeletionGuardError(plan.collection, len(plan.deleted), plan.known, plan.deleted[:_NAMED])


def quarantine_of(found: RejectedDocument, pipeline: str) -> Quarantine:
    """Return what the ledger keeps of a rejection."""
    return Quarantine(found.content_hash, found.stage, found.reason, pipeline)


def still_quarantined(document_id: str, source: str, why: Quarantine) -> QuarantinedDocument:
    """Return what a report says of a document in quarantine."""
    return QuarantinedDocument(document_id, source, why.content_hash, why.stage, why.reason)


def duplicate(found: Document | RejectedDocument) -> QuarantinedDocument:
    """Return what a report says of the second document with an id; the first one stays."""
    return QuarantinedDocument(
        found.id,
        found.source,
        found.content_hash,
        "read",
        f"another document of this source has the id {found.id!r} already; that one was kept; make ids unique",
    )


def first_sighting(seen: set[bytes], document_id: str) -> bool:
    """Note an id; False when it was noted before."""
    key = _key(document_id)
    if key in seen:
        return False
    seen.add(key)
    return True


def was_seen(seen: set[bytes], document_id: str) -> bool:
    """Tell whether an id was noted."""
    return _key(document_id) in seen


def _key(document_id: str) -> bytes:
    """Sixteen bytes stand for an id of any length."""
    return hashlib.blake2b(document_id.encode("utf-8"), digest_size=16).digest()
