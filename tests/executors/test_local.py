"""Workers that die, hang, are killed, load nothing or the wrong thing; and a parent that is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from kvembed.errors import WorkerDiedError
from pipelines import Document, TerminalError, TransientError, ingest
from pipelines.executors import dealing
from pipelines.executors.local import LocalExecutor
from pipelines.executors.portions import Work
from pipelines.executors.seat import Place, Seat
from pipelines.executors.worker import Start
from tests.executors.light import (
    FATAL,
    FRAGILE,
    STUCK,
    LightConfig,
    LightEncoder,
    load,
    load_and_die,
    load_another,
    load_badly,
)
from tests.executors.test_contract import clean, held, index, told
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.stores import contents

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "_SMALLEST", 16)
    monkeypatch.setattr(dealing, "_LARGEST", 64)


@pytest.fixture(params=["embedded", pytest.param("served", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    return request.getfixturevalue("double").url if request.param == "served" else tmp_path / "store"


def with_word(word: str, *, place: int = 17) -> list[Document]:
    found = edition(0)
    found.insert(place, Document("special", f"A text that is {word} to whoever embeds it.", "special.txt"))
    return found


def texts_embedded(folder: Path) -> Counter[str]:
    return Counter(line for file in folder.glob("texts-*") for line in file.read_text().splitlines())


def test_worker_that_dies_in_a_shard_is_replaced_and_every_document_counts_once(local, store, tmp_path):
    found = with_word(FRAGILE)
    wanted, report = clean(found)
    before = set(local.process_ids)
    done = told(index((local, store), found, LightEncoder(LightConfig(folder=str(tmp_path)))))
    assert held(store) == wanted
    spent = {"tokens", "chunks_embedded", "points_written"}
    assert {key: value for key, value in done.items() if key not in spent} == {
        key: value for key, value in report.items() if key not in spent
    }
    assert len(set(local.process_ids) - before) >= 1
    assert (tmp_path / FRAGILE).exists()
    again = sum(count - 1 for count in texts_embedded(tmp_path).values())
    assert again <= 3 * dealing._LARGEST, "more was embedded again than the dead worker had in hand"


def test_document_that_ends_workers_is_quarantined_alone_and_not_tried_again(local, store, tmp_path):
    found = with_word(FATAL)
    encoder = LightEncoder(LightConfig(folder=str(tmp_path)))
    report = index((local, store), found, encoder)
    assert [(one.document_id, one.stage) for one in report.quarantined] == [("special", "embed")]
    assert "ended, 4 times with others or alone, 2 times alone" in report.quarantined[0].reason
    good = [one for one in found if one.id != "special"]
    after = held(store)
    wanted = clean(good)[0]
    quarantined = after["ledger"].pop("special")
    assert after == wanted
    assert quarantined[1] == ""
    assert quarantined[4].content_hash == found[17].content_hash
    embedded = sum(texts_embedded(tmp_path).values())
    assert [one.document_id for one in index((local, store), found, encoder).quarantined] == ["special"]
    assert sum(texts_embedded(tmp_path).values()) == embedded
    healed = [
        Document("special", "A text that is kind.", "special.txt") if one.id == "special" else one for one in found
    ]
    index((local, store), healed, encoder)
    assert held(store) == clean(healed)[0]


@pytest.mark.slow
def test_worker_that_hangs_is_killed_and_its_documents_are_dealt_again(tmp_path):
    found = with_word(STUCK)
    with LocalExecutor(2, device="cpu", load=load, patience=4.0) as executor:
        index((executor, tmp_path / "store"), found, LightEncoder(LightConfig(folder=str(tmp_path))))
    assert held(tmp_path / "store") == clean(found)[0]


def test_worker_that_is_stopped_keeps_a_message_waiting_no_longer_than_its_patience():
    seat = Seat(Place("here", "cpu"), patience=1.0)
    seat.take(Start(load, LightConfig(), "cpu"), Work(1, "notes", "notes--1", "pipeline", CHUNKING))
    assert seat.process_id is not None
    os.kill(seat.process_id, signal.SIGSTOP)
    started = time.monotonic()
    seat.tell(b"more than a socket holds" * 1_000_000)
    assert 0.5 < time.monotonic() - started < 20
    assert seat.left() == -signal.SIGKILL


@pytest.mark.slow
def test_workers_that_end_whatever_they_embed_end_the_run_and_quarantine_nothing(tmp_path):
    config = LightConfig(folder=str(tmp_path), everything=True)
    with LocalExecutor(1, device="cpu", load=load) as executor:
        with pytest.raises(TerminalError, match="no document is at fault"):
            index((executor, tmp_path / "store"), edition(0)[:10], LightEncoder(config))
        assert executor.process_ids == []
    report = index((None or "inline", tmp_path / "store"), edition(0)[:10])
    assert report.quarantined == ()
    assert held(tmp_path / "store") == clean(edition(0)[:10])[0]


@pytest.mark.parametrize(
    ("loading", "error", "words"),
    [
        pytest.param(load_badly, FileNotFoundError, "no weights here", marks=pytest.mark.slow),
        pytest.param(load_and_die, WorkerDiedError, "killed by signal 9", marks=pytest.mark.slow),
        (load_another, TransientError, "another encoder"),
    ],
)
def test_worker_that_cannot_load_the_model_ends_the_run(tmp_path, loading, error, words):
    with (
        LocalExecutor(1, device="cpu", load=loading) as executor,
        pytest.raises(error, match=words),
    ):
        index((executor, tmp_path / "store"), edition(0)[:3])


@pytest.fixture
def killer() -> Iterator[Any]:
    """Kills a random worker every now and then, until the test is over."""
    ended = threading.Event()
    kills: list[int] = []

    def start(executor: LocalExecutor, every: float, seed: int) -> list[int]:
        chance = random.Random(seed)

        def kill() -> None:
            while not ended.wait(chance.uniform(0.5, 1.5) * every):
                for victim in chance.sample(executor.process_ids, min(1, len(executor.process_ids))):
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        kills.append(victim)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        return kills

    yield start
    ended.set()


@pytest.mark.slow
def test_workers_killed_at_random_lose_nothing_and_quarantine_nothing(store, killer, tmp_path):
    with LocalExecutor(3, device="cpu", load=load) as executor:
        kills = killer(executor, 3.0, seed=7)
        for number in (0, 1, 2):
            encoder = LightEncoder(LightConfig(seconds=0.03))
            report = index((executor, store), edition(number), encoder)
            assert report.quarantined == ()
            assert held(store) == clean(edition(number))[0]
    assert len(kills) >= 6


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_parent_that_is_killed_leaves_no_worker_and_the_next_run_converges(store, double):
    command = [sys.executable, "-m", "tests.executors.parent", str(store), "0", "0.02"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said, *workers = process.stdout.readline().split()
        assert (said, len(workers)) == ("embedding", 2)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while any(lives(int(worker)) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    before = set(held(store)["ledger"])
    assert 0 < len(before) < 48, "it was killed before it had committed anything, or after all of it"
    report = index(("inline", store), edition(0))
    assert report.documents_added + report.documents_changed <= 48 - len(before) + 2 * 64
    assert held(store) == clean(edition(0))[0]


def test_executor_given_a_client_object_writes_through_the_parent(local):
    client = QdrantClient(":memory:")
    ingest(edition(0), client, "notes", LightEncoder(), chunking=CHUNKING, executor=local)
    assert contents(client, "notes") == clean(edition(0))[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"workers": 0}, "at least 1"), ({"patience": 0.0}, "more than 0"), ({"device": "mps"}, "legal are cpu, cuda")],
)
def test_local_executor_out_of_range_says_what_is_legal(given, words):
    with pytest.raises(ValueError, match=words):
        LocalExecutor(**given)


def test_local_executor_with_more_workers_than_gpus_says_so(tmp_path):
    with (
        LocalExecutor(99, device="cuda") as executor,
        pytest.raises(TerminalError, match="99 workers need a GPU each"),
    ):
        index((executor, tmp_path), edition(0)[:3])
