"""Per-document state, beside the points it speaks of.

The ledger is a collection without vectors in the same Qdrant: one entry per document, and one record of the last
writing run, which names the documents that were being written. What that record names after a kill is mended by
the next run; everything else is as its entry says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

from qdrant_client import models

from pipelines.manifest import now
from pipelines.physical import collections, ledger_name
from pipelines.points import ledger_id, mark_id, run_id
from pipelines.run_records import MARKED, Mark, RunRecord
from pipelines.store import batches, json_bytes, sized_batches
from pipelines.stored_transform import PART_KEY

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.store import Store

_PAGE, _FULL_PAGE = 2000, 200  # a full entry has all point ids of its document
_BATCH = 256
_ENVELOPE = 2000  # bytes of the rest of an entry: hashes, names of fields, a reason
_INDEXED = {"status": models.PayloadSchemaType.KEYWORD, "generation": models.PayloadSchemaType.INTEGER}
_BRIEF = ["kind", "points", "document_id", "source", "content_hash", "text_hash", "settled", "status", "quarantine"]
_WHOLE = models.PayloadSelectorExclude(exclude=[PART_KEY])


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a form of a document could not be indexed.

    Attributes:
        content_hash: Of the form that failed; another form is tried again.
        stage: Where it failed.
        reason: What a person reads.
        pipeline: `Manifest.pipeline` and the version it failed in; another is tried again.
    """

    content_hash: str
    stage: str
    reason: str
    pipeline: str


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What is known of one document.

    Attributes:
        document_id: As the source names it.
        source: Where it came from.
        content_hash: Of the form whose points are searchable; "" when none ever was.
        text_hash: `text_hash` of that form, by which a document is known again under another id; "" when unknown.
        point_ids: Points of that form, in document order; empty in entries that were read in brief.
        settled: The points are exactly those of `content_hash`; False when a write of a later form was cut short.
        payload_hash: `points.payload_hash` of the points; "" when unknown.
        quarantine: Why its present form is not searchable, if it is not.
        generation: Number of the run that wrote the entry.
        truncated_chunks: Chunks that were cut to fit.
        truncated_tokens: Content tokens cut off them.
        updated_at: UTC, ISO 8601.
        points: How many point ids the stored entry has, where it was read; also in brief.
    """

    document_id: str
    source: str
    content_hash: str = ""
    text_hash: str = ""
    point_ids: tuple[str, ...] = ()
    settled: bool = True
    payload_hash: str = ""
    quarantine: Quarantine | None = None
    generation: int = 0
    truncated_chunks: int = 0
    truncated_tokens: int = 0
    updated_at: str = field(default="", compare=False)
    points: int = field(default=0, compare=False)

    @property
    def is_plain(self) -> bool:
        """The document is searchable as its content hash says, and nothing else is to be known of it."""
        return self.committed and self.settled and self.quarantine is None

    @property
    def committed(self) -> bool:
        """Some form of the document is searchable."""
        return self.content_hash != ""

    @property
    def status(self) -> Literal["committed", "quarantined"]:
        """State of the document's present form."""
        return "quarantined" if self.quarantine else "committed"


class Ledger:
    """Reads and writes the ledger of one physical collection."""

    def __init__(self, store: Store, physical: str) -> None:
        self.name = ledger_name(physical)
        self._store = store

    def exists(self) -> bool:
        """Tell whether there is one; a run can end between the making of the points' collection and of this."""
        return self.name in collections(self._store)

    def create(self) -> None:
        """Make the collection that holds the ledger."""
        self._store.create(self.name, None, None)
        if not self._store.embedded:
            for field_name, schema in _INDEXED.items():
                self._store.call(
                    self._store.client.create_payload_index,
                    self.name,
                    field_name=field_name,
                    field_schema=schema,
                    wait=True,
                )

    def get(self, document_ids: Iterable[str], *, brief: bool = False) -> dict[str, LedgerEntry]:
        """Return the entries of these documents by id; documents without one are missing.

        Args:
            document_ids: As the source names them.
            brief: Leave point ids and counts out, which a comparison does not need.
        """
        found: dict[str, LedgerEntry] = {}
        for ids in batches(document_ids, _BATCH):
            records = self._store.call(
                self._store.client.retrieve,
                self.name,
                ids=[ledger_id(document_id) for document_id in ids],
                with_payload=_BRIEF if brief else True,
            )
            entries = [_entry(record.payload or {}) for record in records]
            found |= {entry.document_id: entry for entry in entries}
        return found

    def scan(self, *, brief: bool = True, quarantined: bool = False) -> Iterator[LedgerEntry]:
        """Yield all entries, a page at a time.

        Args:
            brief: Leave point ids and counts out.
            quarantined: Only documents whose present form is quarantined.
        """
        wanted = models.FieldCondition(key="status", match=models.MatchValue(value="quarantined"))
        only = models.Filter(must=[wanted]) if quarantined else None
        for payload in self._scroll(only, _PAGE if brief else _FULL_PAGE, _BRIEF if brief else _WHOLE):
            if payload.get("kind") == "document":
                yield _entry(payload)

    def put(self, entries: Sequence[LedgerEntry], run: int) -> None:
        """Write entries; this is the moment a document is committed.

        Args:
            entries: Of any documents.
            run: Number of the run that writes. What a later run wrote stays: a request that was long on its way, of
                a writer that has lost its lease, changes nothing.
        """
        moment = now()
        for batch in sized_batches(entries, _bytes, _BATCH):
            self._upsert([_point(replace(entry, updated_at=moment)) for entry in batch], run)

    def remove(self, document_ids: Iterable[str]) -> None:
        """Forget documents; their points are deleted after this."""
        for batch in batches(document_ids, _BATCH):
            self._store.call(
                self._store.client.delete,
                self.name,
                points_selector=[ledger_id(document_id) for document_id in batch],
                wait=True,
            )
        self._store.settle(self.name)

    def run(self) -> RunRecord:
        """Return the record of the last run that wrote, with what its marks name; a blank one when none did."""
        records = self._store.call(self._store.client.retrieve, self.name, ids=[run_id()])
        if not records:
            return RunRecord()
        record = RunRecord.from_payload(cast("Mapping[str, JSON]", records[0].payload or {}))
        if not record.shared:
            return record
        marked = (one for mark in self._marks() if mark.generation == record.generation for one in mark.in_flight)
        return replace(record, in_flight=tuple(dict.fromkeys((*record.in_flight, *marked))))

    def put_run(self, run: RunRecord) -> None:
        """Write the record of the present run, unless a later one has begun."""
        self._upsert([models.PointStruct(id=run_id(), vector={}, payload=run.to_payload())], run.generation)

    def mark(self, key: str) -> Mark | None:
        """Return what is marked under a key."""
        records = self._store.call(self._store.client.retrieve, self.name, ids=[mark_id(key)])
        return Mark.from_payload(cast("Mapping[str, JSON]", records[0].payload or {})) if records else None

    def put_mark(self, mark: Mark) -> None:
        """Write a mark, unless a later run has written one under its key."""
        self._upsert([models.PointStruct(id=mark_id(mark.key), vector={}, payload=mark.to_payload())], mark.generation)

    def drop_marks(self, keys: Sequence[str] | None = None) -> None:
        """Delete the marks under these keys, or all there are."""
        named = [mark.key for mark in self._marks()] if keys is None else keys
        for batch in batches(named, _BATCH):
            ids: list[models.ExtendedPointId] = [mark_id(key) for key in batch]
            self._store.call(self._store.client.delete, self.name, points_selector=ids, wait=True)
        if named:
            self._store.settle(self.name)

    def _marks(self) -> Iterator[Mark]:
        marked = models.FieldCondition(key="status", match=models.MatchValue(value=MARKED))
        for payload in self._scroll(models.Filter(must=[marked]), _FULL_PAGE, _WHOLE):
            yield Mark.from_payload(payload)

    def _scroll(
        self, only: models.Filter | None, page: int, payload: list[str] | models.PayloadSelectorExclude
    ) -> Iterator[Mapping[str, JSON]]:
        offset: models.ExtendedPointId | None = None
        while True:
            records, offset = self._store.call(
                self._store.client.scroll,
                self.name,
                scroll_filter=only,
                limit=page,
                offset=offset,
                with_payload=payload,
            )
            for record in records:
                yield record.payload or {}
            if offset is None:
                return

    def _upsert(self, points: list[models.PointStruct], run: int) -> None:
        not_later = models.FieldCondition(key="generation", range=models.Range(lte=run))
        self._store.call(
            self._store.client.upsert,
            self.name,
            points=points,
            wait=True,
            update_filter=models.Filter(must=[not_later]),
        )
        self._store.settle(self.name)


def _bytes(entry: LedgerEntry) -> int:
    return json_bytes([entry.document_id, entry.source, *entry.point_ids]) + _ENVELOPE


def _point(entry: LedgerEntry) -> models.PointStruct:
    reasons: dict[str, JSON] | None = asdict(entry.quarantine) if entry.quarantine else None
    payload: dict[str, JSON] = {
        "kind": "document",
        "document_id": entry.document_id,
        "source": entry.source,
        "content_hash": entry.content_hash,
        "text_hash": entry.text_hash,
        "point_ids": list(entry.point_ids),
        "points": len(entry.point_ids),
        "settled": entry.settled,
        "payload_hash": entry.payload_hash,
        "status": entry.status,
        "quarantine": reasons,
        "generation": entry.generation,
        "truncated_chunks": entry.truncated_chunks,
        "truncated_tokens": entry.truncated_tokens,
        "updated_at": entry.updated_at,
    }
    return models.PointStruct(id=ledger_id(entry.document_id), vector={}, payload=payload)


def _entry(payload: Mapping[str, JSON]) -> LedgerEntry:
    why = cast("Mapping[str, str] | None", payload.get("quarantine"))
    return LedgerEntry(
        document_id=str(payload["document_id"]),
        source=str(payload["source"]),
        content_hash=str(payload["content_hash"]),
        text_hash=str(payload.get("text_hash", "")),
        point_ids=tuple(cast("Sequence[str]", payload.get("point_ids", ()))),
        settled=bool(payload["settled"]),
        payload_hash=str(payload.get("payload_hash", "")),
        quarantine=Quarantine(**why) if why else None,
        generation=int(cast("float", payload.get("generation", 0))),
        truncated_chunks=int(cast("float", payload.get("truncated_chunks", 0))),
        truncated_tokens=int(cast("float", payload.get("truncated_tokens", 0))),
        updated_at=str(payload.get("updated_at", "")),
        points=int(cast("float", payload.get("points", 0))),
    )
