"""Servers to test against: the double by REST and by gRPC, and a real one where QDRANT_URL names it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from qdrant_client import QdrantClient

from pipelines.retrying import Retrying, RetryPolicy
from pipelines.settings import Settings
from pipelines.store import Store, open_store
from pipelines.store_server import connect
from tests.server.double import Double


@pytest.fixture(scope="module")
def listening() -> Iterator[Double]:
    """One server for many tests: making one costs more than most of them."""
    with Double() as server:
        yield server


@pytest.fixture
def double(listening: Double) -> Iterator[Double]:
    """A server in this process that holds nothing; a bug of its own fails the test."""
    listening.backend.forget()
    yield listening
    assert listening.backend.bugs == []


@dataclass(frozen=True, slots=True)
class Served:
    """A server, spoken to in one way, and a collection name of this test alone."""

    open: Callable[[], Store]
    name: str
    double: Double | None


@pytest.fixture(
    params=[
        "double-rest",
        "double-grpc",
        pytest.param("real-rest", marks=pytest.mark.qdrant),
        pytest.param("real-grpc", marks=pytest.mark.qdrant),
    ]
)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    kind, _, way = request.param.partition("-")
    if kind == "double":
        double: Double = request.getfixturevalue("double")
        yield Served(lambda: double.store(grpc=way == "grpc"), "notes", double)
        return
    url = os.environ.get("QDRANT_URL")
    if not url:
        pytest.fail("set QDRANT_URL to a server that these tests may write to, and KVEMBED_QDRANT_API_KEY to its key")
    name = f"test-{uuid.uuid4().hex}"
    yield Served(lambda: _real(url, way), name, None)
    with _real(url, "rest") as store:
        for found in store.client.get_collections().collections:
            if found.name.startswith(name):
                store.client.delete_collection(found.name)


def _real(url: str, way: str) -> Store:
    client = connect(url, Settings(qdrant_prefer_grpc=way == "grpc"), Retrying(RetryPolicy()))
    assert client.init_options["prefer_grpc"] is (way == "grpc"), "the server's gRPC port does not answer"
    return Store(client, url, owned=True)


@pytest.fixture
def embedded() -> Iterator[Store]:
    """What a served collection is compared with."""
    with open_store(QdrantClient(":memory:")) as store:
        yield store
