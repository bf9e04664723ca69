"""The points of one physical collection: written, read and deleted in requests a server accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from qdrant_client import models

from pipelines.points import DOCUMENT_ID_FIELD, METADATA_KEY
from pipelines.store import REQUEST_BYTES, batches, json_bytes, sized_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.documents import Point
    from pipelines.errors import JSON
    from pipelines.store import Store

LARGEST_POINT = REQUEST_BYTES
"""Most bytes, as `request_bytes` counts them, that one point may take; a larger one fits into no request."""

_UPSERT = 128
_IDS = 1000
_PAGE = 1000
_NUMBER = 25  # bytes of a float32 as JSON writes it, as a double: -1.2345678806304932e-05 and a comma
_ENVELOPE = 256  # bytes of a point's id and of the names of its parts


class PointStore:
    """Reads and writes points; every write waits until it is applied.

    Args:
        store: Where the collection is.
        physical: The collection.
    """

    def __init__(self, store: Store, physical: str) -> None:
        self._store = store
        self._name = physical

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points whole."""
        for batch in sized_batches(points, _bytes_of, _UPSERT):
            structs = [
                models.PointStruct(id=point.id, vector=point.vector.tolist(), payload=dict(point.payload))
                for point in batch
            ]
            self._store.call(self._store.client.upsert, self._name, points=structs, wait=True)
        self._store.settle(self._name)

    def overwrite_payloads(self, payloads: Mapping[str, Mapping[str, JSON]]) -> None:
        """Give points that exist another payload; their vectors stay."""
        for batch in sized_batches(payloads.items(), lambda item: request_bytes(item[1], 0), _UPSERT):
            operations: list[models.UpdateOperation] = [
                models.OverwritePayloadOperation(
                    overwrite_payload=models.SetPayload(payload=dict(payload), points=[point_id])
                )
                for point_id, payload in batch
            ]
            self._store.call(
                self._store.client.batch_update_points, self._name, update_operations=operations, wait=True
            )
        self._store.settle(self._name)

    def delete(self, point_ids: Sequence[str]) -> None:
        """Delete points; absent ones are none."""
        for batch in batches(point_ids, _IDS):
            self._store.call(self._store.client.delete, self._name, points_selector=list(batch), wait=True)
        self._store.settle(self._name)

    def payloads(self, point_ids: Sequence[str]) -> dict[str, Mapping[str, JSON]]:
        """Return the payloads of those points that exist, by id."""
        found: dict[str, Mapping[str, JSON]] = {}
        for batch in batches(point_ids, _IDS):
            records = self._store.call(self._store.client.retrieve, self._name, ids=list(batch))
            found |= {str(record.id): record.payload or {} for record in records}
        return found

    def vectors(self, point_ids: Sequence[str]) -> dict[str, tuple[NDArray[np.float32], Mapping[str, JSON]]]:
        """Return vector and payload of those points that exist, by id."""
        found: dict[str, tuple[NDArray[np.float32], Mapping[str, JSON]]] = {}
        for batch in batches(point_ids, _IDS):
            records = self._store.call(self._store.client.retrieve, self._name, ids=list(batch), with_vectors=True)
            for record in records:
                vector = np.asarray(record.vector, dtype=np.float32)
                found[str(record.id)] = (vector, record.payload or {})
        return found

    def existing(self, point_ids: Sequence[str]) -> set[str]:
        """Return the ids of those points that exist."""
        found: set[str] = set()
        for batch in batches(point_ids, _IDS):
            records = self._store.call(self._store.client.retrieve, self._name, ids=list(batch), with_payload=False)
            found |= {str(record.id) for record in records}
        return found

    def of_documents(self, document_ids: Sequence[str]) -> set[str]:
        """Return the ids of all points that say they belong to these documents."""
        found: set[str] = set()
        for ids in sized_batches(document_ids, json_bytes, _IDS):  # ids of documents are of any length
            wanted = models.FieldCondition(key=DOCUMENT_ID_FIELD, match=models.MatchAny(any=ids))
            found |= {point_id for point_id, _ in self._scroll(models.Filter(must=[wanted]))}
        return found

    def scan(self) -> Iterator[tuple[str, str]]:
        """Yield (point id, document id) of every point; "" where a point names no document."""
        yield from self._scroll(None)

    def count(self) -> int:
        """Return how many points there are."""
        return self._store.call(self._store.client.count, self._name, exact=True).count

    def _scroll(self, wanted: models.Filter | None) -> Iterator[tuple[str, str]]:
        offset: models.ExtendedPointId | None = None
        while True:
            records, offset = self._store.call(
                self._store.client.scroll,
                self._name,
                scroll_filter=wanted,
                limit=_PAGE,
                offset=offset,
                with_payload=[DOCUMENT_ID_FIELD],
            )
            for record in records:
                yield str(record.id), _document_id(record.payload or {})
            if offset is None:
                return


def request_bytes(payload: Mapping[str, JSON], dimension: int) -> int:
    """Return how many bytes a point takes in a request, at most.

    Args:
        payload: Of the point.
        dimension: Of its vector; 0 where the vector is not written.
    """
    return json_bytes(payload) + _NUMBER * dimension + _ENVELOPE


def _bytes_of(point: Point) -> int:
    return request_bytes(point.payload, len(point.vector))


def _document_id(payload: Mapping[str, JSON]) -> str:
    metadata = payload.get(METADATA_KEY)
    return str(metadata.get("document_id", "")) if isinstance(metadata, Mapping) else ""
