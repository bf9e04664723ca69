"""Real processes, really killed: what they committed stays, and the next run continues."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from qdrant_client import QdrantClient

from pipelines import ingest
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import contents

KILLS = 6


def killed_after(folder: Path, number: int, seconds: float) -> bool:
    """Index edition `number` in another process and kill it that long after its first write; False if it was done."""
    command = [sys.executable, "-m", "tests.faults.corpus", str(folder), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def test_ingest_killed_at_random_moments_then_run_once_equals_a_clean_build(tmp_path: Path) -> None:
    chance = random.Random(20260101)
    kills = 0
    for number in range(KILLS):
        kills += killed_after(tmp_path / "killed", number % 3, chance.uniform(0.0, 0.4))
    assert kills >= KILLS // 2, "hardly any process was killed while it wrote; the corpus is too small"
    ingest(edition(2), tmp_path / "killed", "notes", FakeEncoder(), chunking=CHUNKING, delete="all")
    ingest(edition(2), tmp_path / "clean", "notes", FakeEncoder(), chunking=CHUNKING)
    found = []
    for name in ("killed", "clean"):
        client = QdrantClient(path=str(tmp_path / name))
        found.append(contents(client, "notes"))
        client.close()
    assert found[0] == found[1]
