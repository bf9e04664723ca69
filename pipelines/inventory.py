"""What is in a store: its collections, their documents, encoders and troubles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipelines.collection import find_collection, get_collection
from pipelines.control import Control
from pipelines.errors import ForeignCollectionError, InvalidCollectionNameError
from pipelines.lease import holder
from pipelines.physical import CONTROL, aliases, collections
from pipelines.planning import still_quarantined
from pipelines.point_store import PointStore
from pipelines.report import QuarantinedDocument
from pipelines.store import open_store

if TYPE_CHECKING:
    from pipelines.collection import Collection
    from pipelines.errors import JSON
    from pipelines.store import Store, StoreLike


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """One collection at a glance."""

    collection: str
    physical: str
    """The Qdrant collection behind the name."""
    documents: int
    """With a searchable form."""
    chunks: int
    quarantined: tuple[QuarantinedDocument, ...]
    encoder: Mapping[str, JSON]
    fingerprint: str
    chunking: Mapping[str, JSON]
    created_by: str
    created_at: str
    changed_at: str
    """End of the last run that wrote; "" when none came to its end."""
    interrupted: bool
    """The last run was cut short or is still going on; the next one continues."""
    writer: str | None
    """Who holds the write lease, or held it when its run was cut short."""
    previous: tuple[str, ...]
    """Physical collections that a rollback can return to, the last one first."""
    building: str | None
    """Physical collection that is being built to take this one's place."""
    storage: Mapping[str, JSON]
    """How a server keeps the vectors."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the status as JSON values."""
        return {
            **asdict(self),
            "previous": list(self.previous),
            "quarantined": [asdict(found) for found in self.quarantined],
        }


def status(store: StoreLike | None, name: str | None = None) -> list[CollectionStatus]:
    """Describe one collection, or all of a store that are ours.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection; None takes all, in order of their names.

    Raises:
        CollectionNotFoundError: no collection of that name.
        StoreError: the store refuses, or there is none.
    """
    with open_store(store, create=False) as opened:
        if name is not None:
            return [_describe(opened, get_collection(opened, name))]
        written = {other.removesuffix(CONTROL) for other in collections(opened) if other.endswith(CONTROL)}
        found = (_ours(opened, known) for known in sorted({*aliases(opened), *written}))
        return [_describe(opened, collection) for collection in found if collection is not None]


def _ours(store: Store, alias: str) -> Collection | None:
    try:
        return find_collection(store, alias)
    except (ForeignCollectionError, InvalidCollectionNameError):
        return None


def _describe(store: Store, collection: Collection) -> CollectionStatus:
    documents = 0
    quarantined = []
    for entry in collection.ledger.scan():
        documents += entry.committed
        if entry.quarantine is not None:
            quarantined.append(still_quarantined(entry.document_id, entry.source, entry.quarantine))
    run = collection.ledger.run()
    record = Control(store, collection.name).record(collection.physical)
    there = collections(store)
    manifest = collection.manifest
    return CollectionStatus(
        collection=collection.name,
        physical=collection.physical,
        documents=documents,
        chunks=PointStore(store, collection.physical).count(),
        quarantined=tuple(sorted(quarantined, key=lambda found: found.document_id)),
        encoder=manifest.encoder,
        fingerprint=manifest.fingerprint,
        chunking=manifest.chunking,
        created_by=manifest.created_by,
        created_at=manifest.created_at,
        changed_at=run.finished_at,
        interrupted=bool(run.started_at) and not run.finished_at,
        writer=holder(store, collection.name),
        previous=tuple(old.physical for old in record.retired if old.physical in there),
        building=record.building,
        storage=manifest.storage,
    )
