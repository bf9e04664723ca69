"""Documents that were being written when their process ended: back to what the ledger says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.damage import examine
from pipelines.store import batches

if TYPE_CHECKING:
    from pipelines.documents import Document
    from pipelines.ledger import Ledger
    from pipelines.point_store import PointStore


def undo(documents: Sequence[str], ledger: Ledger, points: PointStore, run: int, size: int) -> None:
    """Delete points that no entry names, and note which of the documents are not whole.

    Args:
        documents: Ids of those that may be half written.
        ledger: Of the collection.
        points: Of the collection.
        run: Number of the run that does it.
        size: Documents that are looked at together.
    """
    for ids in batches(documents, size):
        entries = ledger.get(ids)
        kept = {point_id for entry in entries.values() for point_id in entry.point_ids}
        points.delete(sorted(points.of_documents(ids) - kept))
        found = examine(entries.values(), points)
        mended = [replace(one.entry, settled=one.entry.settled and one.whole) for one in found]
        ledger.put(mended, run)


def settled_by(run: int, documents: Sequence[Document], ledger: Ledger) -> set[str]:
    """Return which of the documents a run is through with: it committed or quarantined just this form of them.

    Args:
        run: Its number.
        documents: As the source has them.
        ledger: Of the collection.
    """
    found = set()
    entries = ledger.get([document.id for document in documents], brief=False)
    for document in documents:
        entry = entries.get(document.id)
        if entry is None or entry.generation != run:
            continue
        form = entry.quarantine.content_hash if entry.quarantine is not None else entry.content_hash
        if form == document.content_hash and (entry.quarantine is not None or entry.settled):
            found.add(document.id)
    return found
