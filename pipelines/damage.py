"""Points that the ledger names and the collection lacks: deleted by hand, or lost with the storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.store import batches

if TYPE_CHECKING:
    from pipelines.ledger import Ledger, LedgerEntry
    from pipelines.point_store import PointStore

_BATCH = 64


def damaged_documents(ledger: Ledger, points: PointStore) -> frozenset[str]:
    """Return the ids of documents that lack points.

    A count decides first, so a collection that is whole is not read. As many points too many as are missing hide
    them here, not from `verify`. Call it while nothing is in flight: a half-written document has its own repair.
    """
    named = sum(len(entry.point_ids) for entry in _committed(ledger))
    if points.count() == named:
        return frozenset()
    return frozenset(entry.document_id for entry, missing in missing_points(ledger, points) if missing)


def missing_points(ledger: Ledger, points: PointStore) -> Iterator[tuple[LedgerEntry, int]]:
    """Yield every searchable document's entry and how many of its points do not exist."""
    for entries in batches(_committed(ledger), _BATCH):
        found = points.existing([point_id for entry in entries for point_id in entry.point_ids])
        for entry in entries:
            yield entry, sum(point_id not in found for point_id in entry.point_ids)


def _committed(ledger: Ledger) -> Iterator[LedgerEntry]:
    return (entry for entry in ledger.scan(brief=False) if entry.committed)
