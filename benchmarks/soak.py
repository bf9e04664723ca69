"""Many documents, four workers, a worker killed every few seconds, their parent killed twice: the end is as if nothing.

    python -m benchmarks.soak [--documents 100000] [--workers 4] [--cost 0.002] [--kill-every 5] [--picture FILE]
    python -m benchmarks.soak --scaling [--documents 10000] [--cost 0.01]

The encoder sleeps --cost seconds a document and returns a vector made from a hash. The store is the server of the
tests, in a process of its own on the loopback interface; workers write to it by themselves. When the run is through,
points (ids, payloads, vectors to 1e-6) and ledger are compared with those of a build by one process, undisturbed.
Printed are kills, runs, time, and how the memory of every process that lived long enough changed from its second
quarter to its last; --picture draws it. It ends with 1 where the two builds differ, a worker outlives its parent by
more than 10 s, or memory grows by more than --grows MB.

A worker is killed once it has loaded its model, for three in one place that end before that end a run, and when
something was committed since the kill before, or a slow machine would never be through. --scaling runs one worker and
then two over the same documents and prints the ratio of their times, starting excluded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from benchmarks.ingest import server
from benchmarks.soak_parts import CHUNKING, Corpus, SleepingConfig, load
from benchmarks.soak_watch import Watch, alive, is_at_work, kill, workers_of
from kvembed import EncoderConfig
from pipelines import ingest
from pipelines.ledger import Ledger
from pipelines.physical import resolve
from pipelines.store import open_store

ROOT = Path(__file__).parents[1]
NAME, CLEAN = "soak", "clean"
LEAVES = 10.0
"""Seconds in which a worker notices that its parent is dead."""


ROUNDING = 1e-6
"""Difference of two numbers of a vector of unit length that counts as none."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredPoint:
    """A point: payload as JSON, and its vector."""

    payload: str
    vector: NDArray[np.float32]


@dataclass(slots=True)
class Soak:
    """One soak.

    Attributes:
        options: As given.
        address: URL and settings of the server.
        watch: Memory and kills.
        runs: How each run ended: its report, or None where it was killed.
        leaving: Seconds until the last worker of a killed parent was gone, a parent each.
        through: Documents that the present run has committed.
    """

    options: argparse.Namespace
    address: tuple[str, dict[str, str]]
    watch: Watch = field(default_factory=Watch)
    runs: list[dict[str, float] | None] = field(default_factory=list)
    leaving: list[float] = field(default_factory=list)
    through: int = 0

    def run(self) -> None:
        """Run until a run comes to its end; the parent is killed at a third and at two thirds."""
        for share in (1 / 3, 2 / 3, None):
            self.runs.append(self._once(share))
        while self.runs[-1] is None:
            self.runs.append(self._once(None))

    def _once(self, share: float | None) -> dict[str, float] | None:
        count = self.options.documents
        with started(self.address, NAME, self.options, count) as parent, self._disturbed(parent):
            for line in parent.stdout or ():
                said = json.loads(line)
                if "report" in said:
                    return cast("dict[str, float]", said["report"])
                self.through = said["done"]
                if share is not None and count - said["total"] + said["done"] >= share * count:
                    self._end(parent)
                    return None
            raise SystemExit(f"a run that nobody had killed ended with {parent.wait()}")

    def _end(self, parent: subprocess.Popen[str]) -> None:
        """Kill the parent, and wait for its workers to notice."""
        left = workers_of(parent.pid)
        kill(parent.pid)
        self.watch.killed("parent")
        began = time.monotonic()
        while any(map(alive, left)) and time.monotonic() - began < LEAVES:
            time.sleep(0.05)
        self.leaving.append(time.monotonic() - began)

    @contextmanager
    def _disturbed(self, parent: subprocess.Popen[str]) -> Iterator[None]:
        """Watch the processes, and kill a worker now and then."""
        over = threading.Event()
        thread = threading.Thread(target=self._disturb, args=(parent, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _disturb(self, parent: subprocess.Popen[str], over: threading.Event) -> None:
        chance = random.Random(len(self.runs))
        due, before = 0.0, 0
        self.through = 0
        while not over.wait(0.5):
            at_work = [pid for pid in workers_of(parent.pid) if is_at_work(pid)]
            self.watch.sample(parent.pid, at_work)  # one that still imports grows, and that says nothing
            if at_work and time.monotonic() > due and self.through > before:
                due, before = time.monotonic() + self.options.kill_every * chance.uniform(0.5, 1.5), self.through
                if kill(chance.choice(at_work)):
                    self.watch.killed("worker")


@contextmanager
def started(
    address: tuple[str, dict[str, str]], name: str, options: argparse.Namespace, count: int, *more: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a run in a process of its own, and leave none behind."""
    url, settings = address
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.soak_run", "--url", url, "--name", name]
    command += ["--documents", str(count), "--cost", str(options.cost), "--workers", str(options.workers), *more]
    environment = {**os.environ, **settings, "KVEMBED_LEASE_SECONDS": "5"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            left = workers_of(process.pid)
            if process.poll() is None:
                kill(process.pid)
            for pid in left:
                kill(pid)


def stored(address: tuple[str, dict[str, str]], name: str) -> dict[str, object]:
    """Return everything that a build leaves, but for times and numbers of runs."""
    url, settings = address
    client = QdrantClient(
        url=url, prefer_grpc=True, grpc_port=int(settings["KVEMBED_QDRANT_GRPC_PORT"]), check_compatibility=False
    )
    with open_store(client) as store:
        physical = resolve(store, name)
        assert physical is not None  # noqa: S101 - it was built a moment ago
        found: dict[str, object] = {}
        offset = None
        while True:
            points, offset = client.scroll(physical, limit=2000, offset=offset, with_vectors=True, with_payload=True)
            for one in points:
                vector = np.asarray(one.vector, dtype=np.float32)
                found[str(one.id)] = StoredPoint(json.dumps(one.payload, sort_keys=True), vector)
            if offset is None:
                break
        for entry in Ledger(store, physical).scan(brief=False):
            known = (entry.source, entry.content_hash, entry.point_ids, entry.settled, entry.payload_hash)
            found[f"entry of {entry.document_id}"] = (*known, entry.quarantine)
    client.close()
    return found


def same(one: object, other: object) -> bool:
    """Whether two things that were stored are equal, vectors but for rounding.

    A vector that a killed run left is used again, and scaled to unit length by the store once more.
    """
    if not (isinstance(one, StoredPoint) and isinstance(other, StoredPoint)):
        return one == other
    return one.payload == other.payload and np.allclose(one.vector, other.vector, rtol=0, atol=ROUNDING)


def soak(options: argparse.Namespace) -> dict[str, object]:
    """Disturb a build, then compare it with one that nobody disturbed."""
    with server() as address:
        made = Soak(options, address)
        began = time.monotonic()
        made.run()
        seconds = time.monotonic() - began
        os.environ.update(address[1])
        encoder = load(cast("EncoderConfig", SleepingConfig()), "cpu")
        ingest(Corpus(options.documents), address[0], CLEAN, encoder, chunking=CHUNKING)
        ours, clean = stored(address, NAME), stored(address, CLEAN)
    differing = [key for key in ours.keys() | clean.keys() if not same(ours.get(key), clean.get(key))]
    if options.picture:
        title = f"{options.documents:,} documents, {options.workers} workers, {len(made.watch.kills)} kills"
        made.watch.picture(options.picture, title)
    return {
        "documents": options.documents,
        "workers": options.workers,
        "cost": options.cost,
        "seconds": round(seconds, 1),
        "runs": made.runs,
        "workers_killed": sum(role == "worker" for _, role in made.watch.kills),
        "parents_killed": sum(role == "parent" for _, role in made.watch.kills),
        "workers_left_after": [round(one, 2) for one in made.leaving],
        "compared": len(clean),
        "differing": len(differing),
        "first_differing": sorted(differing)[:5],
        "growth_mb": {role: [round(one, 1) for one in found] for role, found in made.watch.growths().items()},
    }


def scaling(options: argparse.Namespace) -> dict[str, object]:
    """Time one worker and two."""
    found = {}
    for workers in (1, 2):
        options.workers = workers
        with server() as address, started(address, NAME, options, options.documents, "--warm", "200") as parent:
            said = [json.loads(line) for line in parent.stdout or ()]
        found[workers] = said[-1]["report"]["seconds"]
    return {"documents": options.documents, "cost": options.cost, "seconds": found, "ratio": found[1] / found[2]}


def failed(found: dict[str, object], grows: float) -> list[str]:
    """Say what is not as it must be."""
    growths = cast("dict[str, list[float]]", found["growth_mb"])
    left = cast("list[float]", found["workers_left_after"])
    wrong = []
    if found["differing"]:
        wrong.append(f"{found['differing']} of {found['compared']} differ, first {found['first_differing']}")
    wrong += [f"a {role} grew by {max(found)} MB" for role, found in growths.items() if found and max(found) > grows]
    return wrong + [f"a worker outlived its parent by {LEAVES} s" for one in left if one >= LEAVES]


def main() -> None:
    """Soak, or measure the scaling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, help="documents of one chunk (default 100000, of --scaling 10000)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default 4)")
    parser.add_argument("--cost", type=float, help="seconds asleep a document (default 0.002, of --scaling 0.01)")
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="S", help="seconds between kills (default 5)")
    parser.add_argument("--grows", type=float, default=30.0, metavar="MB", help="what memory may grow by (default 30)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG of the memory of every process")
    parser.add_argument("--scaling", action="store_true", help="one worker, then two")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    options.documents = options.documents or (10_000 if options.scaling else 100_000)
    options.cost = options.cost if options.cost is not None else (0.01 if options.scaling else 0.002)
    found = scaling(options) if options.scaling else soak(options)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:20} {value}" for name, value in found.items()))
    wrong = [] if options.scaling else failed(found, options.grows)
    if wrong:
        raise SystemExit("not as a clean build: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
