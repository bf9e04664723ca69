"""Executors to hold to one contract, on an embedded store and on a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.executors.inline import InlineExecutor
from pipelines.executors.local import LocalExecutor
from tests.executors.light import load
from tests.server.double import Double


@pytest.fixture(scope="session")
def local() -> Iterator[LocalExecutor]:
    """Two workers for many tests: starting them takes longer than most of these."""
    with LocalExecutor(2, device="cpu", load=load, patience=30.0) as executor:
        yield executor


@pytest.fixture(scope="session")
def listening() -> Iterator[Double]:
    with Double() as server:
        yield server


@pytest.fixture
def double(listening: Double, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    listening.backend.forget()
    monkeypatch.setenv("KVEMBED_QDRANT_GRPC_PORT", str(listening.grpc_port))
    yield listening
    assert listening.backend.bugs == []


@pytest.fixture(params=["inline", "local-embedded", "local-served"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[object, object]:
    """An executor, and a store that it writes to."""
    kind, _, where = request.param.partition("-")
    store = request.getfixturevalue("double").url if where == "served" else tmp_path / "store"
    return (InlineExecutor() if kind == "inline" else request.getfixturevalue("local")), store
