"""Mends what an inspection found, under the collection's write lease.

Vectors are embedded again from the text that their points keep. What cannot be made from the collection itself is
marked in the ledger, so that the next run over its source writes it anew. Every step may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from pipelines.damage import Examined, examine, is_provably_ours, metadata_of
from pipelines.documents import Point
from pipelines.ledger import LedgerEntry
from pipelines.point_store import PointStore
from pipelines.points import payload_digest, payload_hash
from pipelines.reembedding import CUT_KEY, Reembedding
from pipelines.store import batches

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.collection import Collection
    from pipelines.errors import JSON
    from pipelines.inspection import Findings
    from pipelines.store import Store

UNKNOWN = "unknown"
"""Content hash of a ledger entry that was made anew from a document's points; it equals that of no document."""

_BATCH = 256


@dataclass(slots=True)
class Mended:
    """What a repair did.

    Attributes:
        vectors: How many were embedded again and written.
        deleted: Strays that were deleted.
        restored: Documents whose ledger entry took points in that it had lost, or let go what is another's.
        marked: Documents that the ledger has down to be written again.
    """

    vectors: int = 0
    deleted: int = 0
    restored: set[str] = field(default_factory=set)
    marked: set[str] = field(default_factory=set)


class Repair:
    """Mends one collection; the caller holds its lease, and trusts the encoder.

    Args:
        store: The lease's.
        collection: Its ledger is of that store as well.
        encoder: The one that filled it.
    """

    def __init__(self, store: Store, collection: Collection, encoder: KVEncoder) -> None:
        self.done = Mended()
        self._ledger = collection.ledger
        self._points = PointStore(store, collection.physical)
        self._reembedding = Reembedding(store, collection, encoder)
        self._run = 0

    def mend(self, found: Findings) -> Mended:
        """Mend what was found, as far as the collection itself allows."""
        if found.ledger_gone:
            self._ledger.create()
        self._run = self._ledger.run().generation + 1
        self._settle_strays(found.strays)
        self._mend_vectors(found)
        self._mark([*found.lacking, *found.altered])
        return self.done

    def _mend_vectors(self, found: Findings) -> None:
        for batch in self._reembedding.compare(found.vectors):
            fresh = [
                Point(compared.drawn.point_id, compared.vector, compared.payload)
                for compared in batch
                if compared.verdict == "altered" and compared.vector is not None
            ]
            self._points.upsert(fresh)
            self.done.vectors += len(fresh)

    def _mark(self, document_ids: Iterable[str]) -> None:
        """Have documents written again by the next run, unless what was done so far has made them whole."""
        for batch in batches(document_ids, _BATCH):
            entries = [self._helped(examined) for examined in examine(self._ledger.get(batch).values(), self._points)]
            broken = [
                examined.entry
                for examined in examine(entries, self._points)
                if not examined.whole or not examined.entry.payload_hash
            ]
            self._put([replace(entry, settled=False) for entry in broken if entry.settled])
            self.done.marked |= {entry.document_id for entry in broken}

    def _helped(self, examined: Examined) -> LedgerEntry:
        """Mend of an entry and its points what the run that writes the document again would not."""
        if examined.altered:
            self._recount(examined.entry)
        if not examined.foreign:
            return examined.entry
        # That run deletes what the entry names and the document does not have, another document's points as well.
        mine = tuple(point for point in examined.entry.point_ids if point not in examined.foreign)
        entry = replace(examined.entry, point_ids=mine)
        self._put([entry])
        self.done.restored.add(entry.document_id)
        return entry

    def _recount(self, entry: LedgerEntry) -> None:
        """Count the tokens again that were cut off a document's chunks: a run takes the number over with the vector."""
        payloads = self._points.payloads(entry.point_ids)
        if entry.truncated_tokens or any(CUT_KEY in metadata_of(payload) for payload in payloads.values()):
            self._points.overwrite_payloads(self._reembedding.recounted(payloads))

    def _settle_strays(self, strays: Iterable[str]) -> None:
        in_flight = frozenset(self._ledger.run().in_flight)
        for batch in batches(strays, _BATCH):
            payloads = self._points.payloads([stray for stray in batch if _may_be_ours(stray)])
            ours: dict[str, list[str]] = {}
            for stray, payload in payloads.items():
                if is_provably_ours(stray, payload):
                    ours.setdefault(str(metadata_of(payload)["document_id"]), []).append(stray)
            entries = self._ledger.get(ours)
            owners = {found.entry.document_id: found for found in examine(entries.values(), self._points)}
            doomed: list[str] = []
            for document_id, points in ours.items():
                owner = owners.get(document_id)
                if document_id in in_flight or (owner is not None and _is_complete(owner)):
                    doomed += points
                else:
                    self._take_in(document_id, points, owner)
            self._points.delete(doomed)
            self.done.deleted += len(doomed)

    def _take_in(self, document_id: str, strays: list[str], owner: Examined | None) -> None:
        """Give points back to the entry of their document, or make one, so that searches do not lose them.

        They are deleted by the run that finds them in no form of the document. Where the entry's hash says that the
        points are now those that were written, there is nothing left to do.
        """
        absent = owner.absent if owner else ()
        named = owner.entry.point_ids if owner else ()
        payloads = self._points.payloads([*{*named, *strays}])
        order = sorted(payloads, key=lambda point: (_index(payloads[point]), point))
        source = str(metadata_of(payloads[strays[0]]).get("source", ""))
        entry = owner.entry if owner else LedgerEntry(document_id, source, UNKNOWN)
        written = not absent and payload_hash(payload_digest(payloads[point]) for point in order) == entry.payload_hash
        self._put([replace(entry, point_ids=(*order, *absent), settled=written)])
        self.done.restored.add(document_id)
        if not written:
            self.done.marked.add(document_id)

    def _put(self, entries: list[LedgerEntry]) -> None:
        """Write entries as a run after the last one would, so that no late request of that one overwrites them."""
        latest = max((entry.generation for entry in entries), default=0)  # higher only where it was altered
        self._ledger.put([replace(entry, generation=self._run) for entry in entries], max(self._run, latest))


def _may_be_ours(point: str) -> bool:
    """Tell whether an id is a UUID at all: a server takes a number for an id, and its digits for none."""
    try:
        return str(UUID(point)) == point
    except ValueError:
        return False


def _is_complete(owner: Examined) -> bool:
    """Tell whether a document is known to have all its points without the strays that bear its name."""
    return not owner.entry.committed or (owner.entry.payload_hash != "" and owner.whole)


def _index(payload: Mapping[str, JSON]) -> float:
    index = metadata_of(payload).get("chunk_index")
    return float(index) if isinstance(index, int | float) else float("inf")
