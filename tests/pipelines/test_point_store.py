"""Requests stay below what a server accepts, whatever the points are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.api.points_api import jsonable_encoder

from pipelines.documents import Point
from pipelines.point_store import LARGEST_POINT, PointStore, request_bytes
from pipelines.store import REQUEST_BYTES, Store

SERVER_LIMIT = 32 * 1024 * 1024


class MeasuredClient(QdrantClient):
    """Notes the size of every request as REST would send it, and applies none."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.sizes: list[int] = []
        self.counts: list[int] = []

    def upsert(self, collection_name: str, points: list[models.PointStruct], **_: Any) -> None:  # type: ignore[override]
        self._note(models.PointsList(points=points), len(points))

    def batch_update_points(self, collection_name: str, update_operations: list[Any], **_: Any) -> None:  # type: ignore[override]
        self._note(models.UpdateOperations(operations=update_operations), len(update_operations))

    def delete(self, collection_name: str, points_selector: list[str], **_: Any) -> None:  # type: ignore[override]
        self._note(models.PointIdsList(points=points_selector), len(points_selector))

    def scroll(self, collection_name: str, scroll_filter: models.Filter, **_: Any) -> tuple[list[Any], None]:  # type: ignore[override]
        self._note(models.ScrollRequest(filter=scroll_filter), len(scroll_filter.must[0].match.any))  # type: ignore[index, union-attr]
        return [], None

    def _note(self, request: Any, count: int) -> None:
        self.sizes.append(len(jsonable_encoder(request).encode()))
        self.counts.append(count)


@pytest.fixture
def client() -> MeasuredClient:
    return MeasuredClient()


@pytest.fixture
def points(client: MeasuredClient) -> PointStore:
    client.create_collection("c", vectors_config={})
    return PointStore(Store(client, "memory", owned=False), "c")


def make(count: int, dimension: int, payload: Callable[[int], dict[str, Any]]) -> list[Point]:
    """Points whose numbers take as much room as a float32 can, as JSON."""
    vector = np.full(dimension, -1.2345679e-05, dtype=np.float32)
    return [Point(str(UUID(int=number)), vector, payload(number)) for number in range(count)]


def test_upsert_of_wide_vectors_is_cut_by_bytes(client: MeasuredClient, points: PointStore) -> None:
    points.upsert(make(300, 8192, lambda number: {"page_content": "text"}))
    assert sum(client.counts) == 300
    assert max(client.counts) < 128  # or the count has cut them
    assert max(client.sizes) <= REQUEST_BYTES


def test_upsert_of_large_payloads_is_cut_by_bytes(client: MeasuredClient, points: PointStore) -> None:
    points.upsert(make(10, 4, lambda number: {"page_content": "é\x00🙂" * 600_000}))
    assert client.counts == [2] * 5
    assert max(client.sizes) <= REQUEST_BYTES


def test_upsert_of_small_points_is_cut_by_count(client: MeasuredClient, points: PointStore) -> None:
    points.upsert(make(300, 4, lambda number: {}))
    assert client.counts == [128, 128, 44]


def test_upsert_of_the_largest_point_passes_a_server(client: MeasuredClient, points: PointStore) -> None:
    room = LARGEST_POINT - request_bytes({"page_content": ""}, 4096)
    (point,) = make(1, 4096, lambda number: {"page_content": "x" * room})
    assert request_bytes(point.payload, 4096) == LARGEST_POINT
    points.upsert([point])
    assert client.sizes[0] <= LARGEST_POINT < SERVER_LIMIT


def test_overwrite_payloads_is_cut_by_bytes(client: MeasuredClient, points: PointStore) -> None:
    points.overwrite_payloads({str(UUID(int=n)): {"page_content": "x" * 3_000_000} for n in range(12)})
    assert client.counts == [5, 5, 2]
    assert max(client.sizes) <= REQUEST_BYTES


def test_of_documents_with_long_ids_is_cut_by_bytes(client: MeasuredClient, points: PointStore) -> None:
    assert points.of_documents(["東" * 1_000_000 + str(number) for number in range(11)]) == set()
    assert client.counts == [5, 5, 1]
    assert max(client.sizes) <= REQUEST_BYTES


def test_delete_is_cut_by_count(client: MeasuredClient, points: PointStore) -> None:
    points.delete([str(UUID(int=number)) for number in range(2500)])
    assert client.counts == [1000, 1000, 500]
    assert max(client.sizes) < 64 * 1000


@pytest.mark.parametrize("dimension", [1, 1024])
def test_request_bytes_is_an_upper_bound(dimension: int) -> None:
    for number in (-1.2345679e-05, -0.00012345679, -3.4028235e38, -1.1754944e-38, 0.33333334):
        vector = np.full(dimension, number, dtype=np.float32).tolist()
        struct = models.PointStruct(id=str(UUID(int=2**128 - 1)), vector=vector, payload={"a": "b"})
        operation = models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload={}, points=[struct.id])
        )
        assert len(jsonable_encoder(models.PointsList(points=[struct]))) <= request_bytes({"a": "b"}, dimension)
        assert len(jsonable_encoder(models.UpdateOperations(operations=[operation]))) <= request_bytes({}, 0)
