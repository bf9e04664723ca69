"""Whatever happens to a call, one run ends well and leaves what a clean build leaves, or says that it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from pipelines import ChunkingConfig, Document, ingest, open_collection, plan, status
from pipelines.errors import LeaseLostError, StoreError, StoreUnavailableError
from pipelines.retrying import Retrying, RetryPolicy
from pipelines.store import Store, open_store
from tests.pipelines.fake_encoder import FakeEncoder, FakeEncoding
from tests.pipelines.stores import contents
from tests.server.double import Double
from tests.server.faults import HARMLESS, PERMANENT, TRANSIENT, Kind

NAME = "notes"
SMALL = ChunkingConfig(max_tokens=12)
WAYS = [pytest.param(False, id="rest"), pytest.param(True, id="grpc")]
SECONDS = {"delay": 0.002, "busy_after": 1.0}


def history() -> list[list[Document]]:
    """Made, then edited, renamed and shrunk: every kind of write comes up."""
    first = [
        Document(f"d{number}", f"word{number} tells of it.\n\nIt has more of {number}.", f"{number}.txt")
        for number in range(3)
    ]
    edited = Document("d0", "word0 says something else.\n\nIt has more of 0.", "0.txt")
    return [first, [edited, Document("d1", first[1].text, "elsewhere.txt")]]


def run(store: Store) -> None:
    for documents in history():
        ingest(documents, store, NAME, FakeEncoder(), chunking=SMALL, delete="all")


@pytest.fixture(scope="module")
def clean() -> dict[str, Any]:
    """What a clean build leaves."""
    with open_store(QdrantClient(":memory:")) as store:
        run(store)
        return contents(store.client, NAME)


@pytest.fixture(scope="module")
def calls() -> dict[bool, int]:
    """How many calls of the history are writes, and how many are reads."""
    with Double() as double, double.store(grpc=False) as store:
        run(store)
        return {writes: double.backend.count(writes=writes) for writes in (True, False)}


def check(double: Double, store: Store, clean: dict[str, Any]) -> None:
    double.faults.clear()
    assert contents(store.client, NAME) == clean
    with open_collection(store, NAME, encoder=FakeEncoder()) as collection:
        assert collection.verify().ok
    (found,) = status(store, NAME)
    assert not found.interrupted


@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("kind", [*TRANSIENT, *HARMLESS])
def test_every_write_that_goes_wrong_once_changes_nothing(
    double: Double, clean: dict[str, Any], calls: dict[bool, int], kind: Kind, grpc: bool
) -> None:
    double.faults.every(kind, among="writes", seconds=SECONDS.get(kind, 0.0))
    with double.store(grpc=grpc) as store:
        run(store)
        assert double.backend.count(writes=True) <= 2 * calls[True] + 2
        assert kind in HARMLESS or double.backend.count(writes=True) >= 2 * calls[True] - 2
        check(double, store, clean)


@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "busy_after", "unavailable", "deadline"])
def test_every_read_that_goes_wrong_once_changes_nothing(
    double: Double, clean: dict[str, Any], calls: dict[bool, int], kind: Kind, grpc: bool
) -> None:
    double.faults.every(kind, among="reads")
    with double.store(grpc=grpc) as store:
        run(store)
        assert double.backend.count(writes=False) <= 2 * calls[False] + 2
        check(double, store, clean)


def test_one_write_whose_answer_is_lost_is_made_once_more(
    double: Double, clean: dict[str, Any], calls: dict[bool, int]
) -> None:
    with double.store(grpc=False) as rest, double.store(grpc=True) as grpc:
        for number in range(calls[True]):
            one_fault(double, grpc if number % 2 else rest, number, "drop_after", clean, calls)


@pytest.mark.slow
@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("kind", [*TRANSIENT, *HARMLESS])
def test_any_one_write_that_goes_wrong_is_made_once_more(
    double: Double, clean: dict[str, Any], calls: dict[bool, int], kind: Kind, grpc: bool
) -> None:
    with double.store(grpc=grpc) as store:
        for number in range(calls[True]):
            one_fault(double, store, number, kind, clean, calls)


def one_fault(
    double: Double, store: Store, number: int, kind: Kind, clean: dict[str, Any], calls: dict[bool, int]
) -> None:
    double.backend.forget()
    double.faults.at(number, kind, seconds=SECONDS.get(kind, 0.0))
    run(store)
    made = sum(double.backend.count(writes=writes) - calls[writes] for writes in (True, False))
    assert made <= 2, f"{kind} at write {number}: {made} calls more"  # a creation also looks what is there
    check(double, store, clean)


@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("kind", PERMANENT)
def test_call_that_is_refused_is_made_once(double: Double, kind: Kind, grpc: bool) -> None:
    slept: list[float] = []
    with double.store(grpc=grpc, sleep=slept.append) as store:
        double.faults.always(kind)
        for operation in (store.client.get_collections, store.client.get_aliases):
            before = len(double.calls)
            with pytest.raises(StoreError):
                store.call(operation)
            assert len(double.calls) == before + 1
    assert slept == []


def test_write_that_is_refused_ends_the_run_and_the_next_one_converges(
    double: Double, clean: dict[str, Any], calls: dict[bool, int], caplog: pytest.LogCaptureFixture
) -> None:
    """One refusal is enough: had the call been made again, the run would have gone on.

    A lease that is not taken back ends nothing, for everything is done by then; it is said, and it runs out.
    """
    kept = 0
    with double.store(grpc=False) as rest, double.store(grpc=True) as grpc:
        for number in range(0, calls[True], 2):
            store = grpc if number % 4 else rest
            double.backend.forget()
            double.faults.at(number, PERMANENT[number % 3])
            caplog.clear()
            try:
                run(store)
            except StoreError:
                pass
            else:
                assert "was not given back and runs out by itself" in caplog.text
                kept += 1
            run(store)
            check(double, store, clean)
    assert 0 < kept < calls[True] // 4


class Interrupting(FakeEncoder):
    """Does something as it meets a text."""

    def __init__(self, text: str, act: Callable[[], None]) -> None:
        super().__init__()
        self._text = text
        self._act = act

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        if any(self._text in text for text in texts):
            self._act()
        return super().encode_counted(texts, role)


@pytest.mark.parametrize("grpc", WAYS)
def test_server_that_stays_away_ends_the_run_and_the_next_one_converges(
    double: Double, clean: dict[str, Any], grpc: bool
) -> None:
    slept: list[float] = []
    with double.store(grpc=grpc, policy=RetryPolicy(retries=5), sleep=slept.append) as store:
        first, _ = history()
        with pytest.raises(StoreUnavailableError, match=r"cannot be reached.*what was committed stays"):
            ingest(first, store, NAME, Interrupting("word1", double.stop), chunking=SMALL, delete="all")
        tried = len(slept)
    # One call was waited for; what a run does to leave in order may be tried as well, and no more than that.
    assert 5 <= tried <= 10
    double.start()
    # A gRPC channel connects in its own time, so this run waits for real.
    patient = RetryPolicy(retries=1000, seconds=60, first_pause=0.01, longest_pause=0.01)
    with double.store(grpc=grpc, policy=patient, sleep=time.sleep) as store:
        run(store)
        check(double, store, clean)


@pytest.mark.parametrize("grpc", WAYS)
def test_server_that_comes_back_is_waited_for(double: Double, clean: dict[str, Any], grpc: bool) -> None:
    """A restart in the middle of a run costs nothing but time."""

    def restart() -> None:
        double.stop()
        double.start()

    patient = RetryPolicy(retries=1000, seconds=60, first_pause=0.01, longest_pause=0.01)
    with double.store(grpc=grpc, policy=patient, sleep=time.sleep) as store:
        first, second = history()
        ingest(first, store, NAME, Interrupting("word1", restart), chunking=SMALL, delete="all")
        ingest(second, store, NAME, FakeEncoder(), chunking=SMALL, delete="all")
        check(double, store, clean)


@pytest.mark.parametrize("grpc", WAYS)
def test_server_that_answers_too_late_is_asked_again(grpc: bool) -> None:
    """What it does meanwhile is done twice, which changes nothing."""
    with Double() as double:  # of its own, because it goes on after the test
        double.faults.at(0, "delay", seconds=1.3, method="upsert")
        with Store(double.client(grpc=grpc, timeout=1), double.url, owned=True, retrying=impatient()) as store:
            store.create("c", None, None)
            point = models.PointStruct(id=1, vector={}, payload={"a": 1})
            store.call(store.client.upsert, "c", points=[point], wait=True)
            assert double.backend.count("upsert") == 2
            assert store.call(store.client.count, "c").count == 1


def impatient() -> Retrying:
    return Retrying(RetryPolicy(), sleep=lambda seconds: None)


@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("seconds", [7.0, 0.5])
def test_server_that_asks_to_wait_is_waited_for_that_long(double: Double, grpc: bool, seconds: float) -> None:
    """qdrant-client itself reads whole seconds only."""
    slept: list[float] = []
    with double.store(grpc=grpc, policy=RetryPolicy(first_pause=0.0), sleep=slept.append) as store:
        double.faults.at(0, "busy_after", among="calls", times=2, seconds=seconds)
        store.call(store.client.get_collections)
    assert slept == [seconds, seconds]


@pytest.mark.parametrize("grpc", WAYS)
def test_server_that_asks_for_more_time_than_there_is_says_how_much(double: Double, grpc: bool) -> None:
    with double.store(grpc=grpc, policy=RetryPolicy(seconds=10)) as store:
        double.faults.always("busy_after", seconds=60)
        with pytest.raises(StoreUnavailableError) as caught:
            store.call(store.client.get_collections)
    assert caught.value.retry_after == 60
    assert len(double.calls) == 1


def test_guard_is_asked_before_every_attempt(double: Double) -> None:
    """A writer whose lease went to another while the server was away must not write when it is back."""
    double.faults.always("unavailable")
    asked = 0

    def lost_at_third() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise LeaseLostError("notes", "another run")

    with double.store(grpc=True) as store, pytest.raises(LeaseLostError):
        store.guarded(lost_at_third).call(store.client.get_collections)
    assert len(double.calls) == 2


def test_plan_over_a_server_writes_nothing(double: Double) -> None:
    with double.store(grpc=False) as store:
        plan(history()[0], store, NAME, FakeEncoder(), chunking=SMALL)
    assert double.backend.count(writes=True) == 0
