"""The soak finds what it is there to find: processes, their memory, and builds that differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak, soak_watch
from benchmarks.soak_parts import Corpus, SleepingConfig, SleepingEncoder

ROOT = Path(__file__).parents[1]
SLEEP = "import sys, time; sys.stdout.write('up\\n'); sys.stdout.flush(); time.sleep(60)  # pipelines.executors.worker"


def test_workers_of_a_process_are_its_children_that_embed() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE) as worker:
        with subprocess.Popen(["sleep", "60"]) as other:
            assert worker.stdout
            assert worker.stdout.readline()
            assert worker.pid in soak_watch.workers_of(os.getpid())
            assert other.pid not in soak_watch.workers_of(os.getpid())
            assert not soak_watch.is_at_work(worker.pid)
            assert soak_watch.alive(worker.pid)
            assert soak_watch.kill(worker.pid)
            other.kill()
        worker.wait()
    assert not soak_watch.alive(worker.pid)
    assert not soak_watch.kill(worker.pid)


def test_memory_of_a_process_is_what_it_holds_alone() -> None:
    held = "import sys, time; block = b'x' * 80_000_000; sys.stdout.write('up\\n'); sys.stdout.flush(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        found = soak_watch.memory(process.pid)
        process.send_signal(signal.SIGKILL)
    assert found is not None
    resident, unique = found
    assert 75 < unique <= resident < 200
    assert soak_watch.memory(process.pid) is None


@pytest.mark.parametrize(("rate", "grown"), [(0.0, 0.0), (0.5, 25.0)])
def test_growth_is_that_of_the_last_quarter_over_the_second(rate: float, grown: float) -> None:
    """The first quarter is not asked: a process that has just begun always grows."""
    track = soak_watch.Track("worker", unique=[200.0 * (n < 3) + 100.0 + rate * n for n in range(100)])
    assert track.growth() == pytest.approx(grown)
    assert soak_watch.Track("worker", unique=[1.0] * 10).growth() is None


def test_encoder_sleeps_for_every_text_and_is_the_same_whatever_it_costs() -> None:
    slow, quick = SleepingEncoder(SleepingConfig(0.02)), SleepingEncoder(SleepingConfig(0.0))
    texts = [document.text for document in Corpus(5).documents()]
    began = time.perf_counter()
    vectors = slow.encode_counted(texts, "document").vectors
    assert time.perf_counter() - began >= 0.1
    assert np.array_equal(vectors, quick.encode_document(texts))
    assert slow.fingerprint == quick.fingerprint
    assert len({tuple(vector) for vector in vectors}) == 5


def test_soak_fails_where_a_build_differs_memory_grows_or_a_worker_stays() -> None:
    good = {
        "differing": 0,
        "compared": 9,
        "first_differing": [],
        "growth_mb": {"worker": [1.0]},
        "workers_left_after": [0.1],
    }
    assert soak.failed(good, 30.0) == []
    assert "3 of 9 differ" in soak.failed({**good, "differing": 3}, 30.0)[0]
    assert soak.failed({**good, "growth_mb": {"worker": [1.0, 31.0]}}, 30.0) == ["a worker grew by 31.0 MB"]
    assert len(soak.failed({**good, "workers_left_after": [0.1, 10.0]}, 30.0)) == 1


@pytest.mark.slow
def test_soak_of_killed_workers_and_parents_ends_as_a_clean_build(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.soak",
        "--json",
        "--documents",
        "600",
        "--cost",
        "0.02",
    ]
    command += ["--kill-every", "4", "--workers", "2", "--picture", str(tmp_path / "soak.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["differing"] == 0
    assert found["compared"] == 2 * 600
    assert found["parents_killed"] == 2
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_same_vectors_differ_by_rounding_at_most() -> None:
    """A store scales a vector that is used again a second time, which moves its last bit."""
    vector = np.array([0.6, 0.8], dtype=np.float32)
    point = soak.StoredPoint("{}", vector)
    assert soak.same(point, soak.StoredPoint("{}", vector * np.float32(1 + 1e-7)))
    assert not soak.same(point, soak.StoredPoint("{}", vector * np.float32(1 + 1e-4)))
    assert not soak.same(point, soak.StoredPoint('{"a": 1}', vector))
    assert not soak.same(point, None)
