"""The double refuses what a server refuses and fails as it is told to; tests that stand on it stand on this."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from pipelines.errors import StoreError, StoreUnavailableError
from pipelines.retrying import RetryPolicy
from tests.server.backend import LARGEST_REQUEST
from tests.server.double import Double
from tests.server.faults import PERMANENT, TRANSIENT, Call, FaultPlan, Kind

WAYS = [pytest.param(False, id="rest"), pytest.param(True, id="grpc")]
ONCE = RetryPolicy(retries=0)
POINT = models.PointStruct(id=1, vector={}, payload={"a": 1})


def call(number: int, write: bool) -> Call:
    return Call(number, "upsert" if write else "scroll", "c", write, 0, {})


def test_plan_numbers_the_calls_that_a_rule_concerns() -> None:
    plan = FaultPlan()
    plan.at(1, "busy", times=2)
    plan.at(0, "delay", among="reads", seconds=3)
    taken = [plan.take(call(number, write)) for number, write in enumerate([True, False, True, False, True, True])]
    assert [fault and fault.kind for fault in taken] == [None, "delay", "busy", None, "busy", None]
    assert taken[1] is not None
    assert taken[1].seconds == 3


def test_plan_every_lets_the_second_attempt_pass() -> None:
    plan = FaultPlan()
    plan.every("busy", method="upsert")
    assert [plan.take(call(0, True)) is None for _ in range(4)] == [False, True, False, True]
    assert plan.take(call(0, False)) is None
    plan.clear()
    assert plan.take(call(0, True)) is None


@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("kind", [*TRANSIENT, *PERMANENT])
def test_fault_applies_the_call_only_where_it_says_so(double: Double, kind: Kind, grpc: bool) -> None:
    with double.store(grpc=grpc, policy=ONCE) as store:
        store.create("c", None, None)
        double.faults.at(0, kind, seconds=1.0)
        with pytest.raises(StoreError if kind in PERMANENT else StoreUnavailableError):
            store.call(store.client.upsert, "c", points=[POINT], wait=True)
        assert double.backend.count("upsert") == 1
        assert double.backend.client.count("c").count == (kind in ("drop_after", "deadline_after"))


@pytest.mark.parametrize("grpc", WAYS)
def test_fault_twice_applies_the_call_two_times(double: Double, monkeypatch: pytest.MonkeyPatch, grpc: bool) -> None:
    applied: list[str] = []
    upsert = double.backend.client.upsert

    def counted(collection_name: str, **arguments: Any) -> Any:
        applied.append(collection_name)
        return upsert(collection_name, **arguments)

    monkeypatch.setattr(double.backend.client, "upsert", counted)
    with double.store(grpc=grpc) as store:
        store.create("c", None, None)
        double.faults.at(0, "twice", method="upsert")
        for _ in range(2):
            store.call(store.client.upsert, "c", points=[POINT], wait=True)
    assert (len(applied), double.backend.count("upsert")) == (3, 2)


@pytest.mark.parametrize("grpc", WAYS)
def test_drop_breaks_the_connection_of_that_client_alone(double: Double, grpc: bool) -> None:
    with double.store(grpc=grpc, policy=ONCE) as one, double.store(grpc=grpc, policy=ONCE) as other:
        other.call(other.client.get_collections)
        double.faults.at(0, "drop_before", among="calls")
        with pytest.raises(StoreUnavailableError):
            one.call(one.client.get_collections)
        other.call(other.client.get_collections)


@pytest.mark.parametrize("grpc", WAYS)
def test_request_beyond_the_limit_is_refused(double: Double, grpc: bool) -> None:
    large = models.PointStruct(id=1, vector={}, payload={"a": "x" * LARGEST_REQUEST})
    with double.store(grpc=grpc) as store:
        store.create("c", None, None)
        with pytest.raises(StoreError, match=r"requests of this size|larger than max"):
            store.call(store.client.upsert, "c", points=[large], wait=True)
        assert double.backend.count("upsert") == 1
        assert store.client.count("c").count == 0


@pytest.mark.parametrize("grpc", WAYS)
def test_vector_of_another_dimension_and_unknown_collection_are_refused(double: Double, grpc: bool) -> None:
    with double.store(grpc=grpc) as store:
        store.create("c", models.VectorParams(size=3, distance=models.Distance.COSINE), None)
        for name, vector in (("c", [1.0, 2.0]), ("other", [1.0, 2.0, 3.0])):
            point = models.PointStruct(id=1, vector=vector, payload={})
            with pytest.raises(StoreError, match="refused"):
                store.call(store.client.upsert, name, points=[point], wait=True)
        assert store.client.count("c").count == 0


@pytest.mark.parametrize("grpc", WAYS)
def test_key_is_demanded_of_everything_but_the_version(grpc: bool) -> None:
    with Double(key="right") as double:
        client = QdrantClient(
            url=double.url, prefer_grpc=grpc, grpc_port=double.grpc_port, check_compatibility=False, timeout=5
        )
        assert client.info().version == "1.16.0"
        with pytest.raises(Exception, match=r"401|UNAUTHENTICATED"):
            client.get_collections()
        client.close()


def test_rest_answer_about_an_unknown_path_is_a_bug_to_find() -> None:
    with Double() as double:
        client = double.client(grpc=False)
        with pytest.raises(UnexpectedResponse, match="404"):
            client.list_full_snapshots()
        assert "GET /snapshots is not one of the double's" in str(double.backend.bugs)
        client.close()


@pytest.mark.parametrize("grpc", WAYS)
def test_double_that_comes_back_has_kept_what_it_held(tmp_path: Path, grpc: bool) -> None:
    policy = RetryPolicy(retries=500, seconds=30, first_pause=0.02, longest_pause=0.02)
    with Double(str(tmp_path)) as double:
        with double.store(grpc=grpc, policy=ONCE) as store:
            store.create("c", None, None)
            store.call(store.client.upsert, "c", points=[POINT], wait=True)
            url, port = double.url, double.grpc_port
            double.stop()
            with pytest.raises(StoreUnavailableError):
                store.call(store.client.count, "c")
        double.start()
        assert (double.url, double.grpc_port) == (url, port)
        # A gRPC channel connects in its own time, so this one waits for real.
        with double.store(grpc=grpc, policy=policy, sleep=time.sleep) as store:
            assert store.call(store.client.count, "c").count == 1


def test_double_as_a_process_serves_both_ways_until_it_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.server", "--folder", str(tmp_path), "--fault", "busy@1"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        for grpc in (False, True):
            client = QdrantClient(
                url=told["url"], prefer_grpc=grpc, grpc_port=told["grpc_port"], check_compatibility=False, timeout=20
            )
            if not grpc:
                client.create_collection("c", vectors_config={})
                with pytest.raises(UnexpectedResponse, match="429"):
                    client.upsert("c", points=[POINT])
            client.upsert("c", points=[POINT])
            assert client.count("c").count == 1
            client.close()
        process.terminate()
        assert process.wait(20) == 0
