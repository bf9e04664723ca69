"""Two real processes on one server: one writes, the other waits, is refused, or takes over; nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from pipelines import ingest
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import contents
from tests.server.double import Double

SECONDS = 1.0
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(double: Double, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a writer, by gRPC unless the test says otherwise; what still runs at the end of the test is killed."""
    begun: list[subprocess.Popen[str]] = []
    environment = {
        **os.environ,
        "KVEMBED_LEASE_SECONDS": str(SECONDS),
        "KVEMBED_QDRANT_PREFER_GRPC": str(getattr(request, "param", "grpc") == "grpc"),
        "KVEMBED_QDRANT_GRPC_PORT": str(double.grpc_port),
    }

    def writer(number: int, *, wait: float = 0.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.server.writer", double.url, str(number), str(wait)]
        begun.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
                env=environment,
            )
        )
        return begun[-1]

    yield writer
    for process in begun:
        process.kill()
        process.communicate()


def until_it_writes(process: subprocess.Popen[str]) -> None:
    """Let it commit one group, and stop it where it has embedded the second."""
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "writing\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "writing\n"


def outcome(process: subprocess.Popen[str]) -> str:
    """Let a process go on, and wait for its last word."""
    return process.communicate(timeout=60)[0].split()[-1]


def served(double: Double) -> dict[str, object]:
    with double.store(grpc=False) as store:
        return contents(store.client, "notes")


def clean(number: int) -> dict[str, object]:
    client = QdrantClient(":memory:")
    ingest(edition(number), client, "notes", FakeEncoder(), chunking=CHUNKING)
    return contents(client, "notes")


def test_second_writer_is_refused_while_the_first_goes_on(double: Double, start: Start) -> None:
    first = start(0)
    until_it_writes(first)
    assert outcome(start(1)) == "CollectionBusyError"
    assert outcome(first) == "done"
    assert served(double) == clean(0)


def test_second_writer_that_waits_writes_after_the_first(double: Double, start: Start) -> None:
    first = start(0)
    until_it_writes(first)
    second = start(1, wait=60.0)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(5 * SECONDS)
    assert outcome(first) == "done"
    assert outcome(second) == "done"
    assert served(double) == clean(1)


def test_killed_writer_is_followed_at_once(double: Double, start: Start) -> None:
    first = start(0)
    until_it_writes(first)
    first.kill()
    first.wait()
    assert outcome(start(1)) == "done"
    assert served(double) == clean(1)


@pytest.mark.parametrize("start", ["rest", "grpc"], indirect=True)
def test_suspended_writer_loses_its_lease_and_stops_before_its_next_write(double: Double, start: Start) -> None:
    first = start(0)
    until_it_writes(first)
    first.send_signal(signal.SIGSTOP)
    assert outcome(start(1, wait=60.0)) == "done"
    before = served(double)
    assert before == clean(1)
    writes = sum(call.write for call in double.calls)
    first.send_signal(signal.SIGCONT)
    assert outcome(first) == "LeaseLostError"
    late = [call for call in double.calls if call.write][writes:]
    assert {call.collection for call in late} <= {"notes--control"}, "only its attempt to renew the lease"
    assert served(double) == before
