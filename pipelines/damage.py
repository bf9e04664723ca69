"""What is not as the ledger says: points that are gone, points too many, payloads that were altered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pipelines.points import METADATA_KEY, payload_digest, payload_hash, point_id
from pipelines.store import batches

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.ledger import Ledger, LedgerEntry
    from pipelines.point_store import PointStore

_BATCH = 64
_PAYLOADS = 256
_SCANNED = 512
_COPIES = 256  # of one text in one document, up to which a point is known for ours by its id


@dataclass(frozen=True, slots=True)
class Examined:
    """One document's points, compared with its ledger entry.

    Attributes:
        entry: What the ledger says.
        absent: Points that it names and the collection lacks.
        altered: The payloads are not those that were written.
        proper: Points that are there, and whose payload makes their id.
        foreign: Points that are another document's.
    """

    entry: LedgerEntry
    absent: tuple[str, ...]
    altered: bool
    proper: int
    foreign: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Nothing is missing or altered, as far as the entry lets one tell."""
        return not self.absent and not self.altered


def damaged_documents(ledger: Ledger, points: PointStore, named: int) -> frozenset[str]:
    """Return the ids of documents that lack points.

    A count decides first, so a collection that is whole is not read: looking each point up took 15 microseconds a
    point in an embedded store, which doubles a run that finds nothing to do. As many points too many as are missing
    therefore hide them here, and so do altered payloads; `verify` sees both, and its repair marks the documents in
    the ledger. Call it while nothing is in flight: a half-written document has its own repair.

    Args:
        ledger: Of the collection.
        points: Of the collection.
        named: Points that the ledger names in all.
    """
    if points.count() == named:
        return frozenset()
    return frozenset(
        entry.document_id
        for entries in batches(committed_entries(ledger), _BATCH)
        for entry in _lacking(entries, points)
    )


def committed_entries(ledger: Ledger) -> Iterator[LedgerEntry]:
    """Yield the entries of all searchable documents."""
    return (entry for entry in ledger.scan(brief=False) if entry.committed)


def examine(entries: Iterable[LedgerEntry], points: PointStore) -> Iterator[Examined]:
    """Compare documents' points with their entries, a few hundred points at a time however long a document is."""
    for batch in batches(entries, _BATCH):
        stored = _stored(batch, points)
        for entry in batch:
            yield _examined(entry, islice(stored, len(entry.point_ids)))


def stray_points(ledger: Ledger, points: PointStore) -> list[str]:
    """Return the ids of all points that no ledger entry names.

    The document that a point names is asked first. What is left may be a point whose payload was altered, so the
    whole ledger is asked for it.
    """
    stray = {found: None for batch in batches(points.scan(), _SCANNED) for found in _unclaimed(batch, ledger)}
    if stray:
        for entry in ledger.scan(brief=False):
            for named in entry.point_ids:
                stray.pop(named, None)
    return list(stray)


def metadata_of(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return the metadata of a stored payload, whatever has become of it."""
    metadata = payload.get(METADATA_KEY)
    return metadata if isinstance(metadata, Mapping) else {}


def is_provably_ours(point: str, payload: Mapping[str, JSON]) -> bool:
    """Tell whether a point's id is made from what its payload says, as the id of every point of ours is."""
    metadata = metadata_of(payload)
    document_id, content_hash = metadata.get("document_id"), metadata.get("content_hash")
    if not isinstance(document_id, str) or not isinstance(content_hash, str) or not document_id:
        return False
    return any(point == point_id(document_id, content_hash, copy) for copy in range(_COPIES))


def _lacking(entries: list[LedgerEntry], points: PointStore) -> Iterator[LedgerEntry]:
    found = points.existing([point for entry in entries for point in entry.point_ids])
    return (entry for entry in entries if not found.issuperset(entry.point_ids))


def _unclaimed(batch: list[tuple[str, str]], ledger: Ledger) -> Iterator[str]:
    entries = ledger.get({document_id for _, document_id in batch})
    named = {point for entry in entries.values() for point in entry.point_ids}
    return (point for point, _ in batch if point not in named)


def _stored(entries: list[LedgerEntry], points: PointStore) -> Iterator[tuple[str, Mapping[str, JSON] | None]]:
    """Yield every named point and its payload, in order; None where there is no such point."""
    for batch in batches((point for entry in entries for point in entry.point_ids), _PAYLOADS):
        found = points.payloads(batch)
        for point in batch:
            yield point, found.get(point)


def _examined(entry: LedgerEntry, stored: Iterable[tuple[str, Mapping[str, JSON] | None]]) -> Examined:
    copies: Counter[str] = Counter()
    absent: list[str] = []
    foreign: list[str] = []
    digests: list[bytes] = []
    proper = 0
    for point, payload in stored:
        if payload is None:
            absent.append(point)
            continue
        digests.append(payload_digest(payload))
        metadata = metadata_of(payload)
        content_hash = str(metadata.get("content_hash"))
        proper += point == point_id(entry.document_id, content_hash, copies[content_hash])
        copies[content_hash] += 1
        if metadata.get("document_id") != entry.document_id and is_provably_ours(point, payload):
            foreign.append(point)
    if entry.payload_hash:
        altered = payload_hash(digests) != entry.payload_hash
    else:  # of an entry that does not say, the ids alone speak: they are made from the document and its chunks
        altered = proper != len(digests)
    return Examined(entry, tuple(absent), altered and not absent, proper, tuple(foreign))
