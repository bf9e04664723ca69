"""One tool, one store, one or more runs: what they took, as JSON on the last line of stdout.

    python -m benchmarks.peers.worker TOOL PLACE STATE CORPUS [CORPUS ...]

TOOL is kvembed, langchain or llamaindex. Before anything is measured the tool indexes ten documents into a store in
memory, so that what is imported on first use is imported. Memory is the resident set of this process.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Protocol

from benchmarks.peers.corpus import write_corpus


class Tool(Protocol):
    """What is measured."""

    def __init__(self, place: str, state: Path) -> None:
        """Open the store."""

    def run(self, corpus: Path) -> dict[str, int]:
        """Bring the store in line with the corpus; returns how many documents were written and left."""

    def close(self) -> None:
        """Release the store."""


def resident(field: str) -> int:
    """Return a size of this process in bytes, 0 where the system does not tell.

    Args:
        field: VmRSS now, VmHWM at most since `forget_peak`.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def forget_peak() -> None:
    """Measure the peak from here."""
    control = Path("/proc/self/clear_refs")
    if control.is_file():
        control.write_text("5")


def measured(kind: type[Tool], place: str, state: Path, corpora: list[Path]) -> list[dict[str, float]]:
    """Open the store once and run the tool once per corpus; closing counts as part of the last run."""
    bare = resident("VmRSS")
    computed = process_time()
    started = perf_counter()
    tool = kind(place, state)
    opening = perf_counter() - started
    runs = []
    for corpus in corpora:
        opened = resident("VmRSS")
        forget_peak()
        started = perf_counter()
        done = tool.run(corpus)
        running = perf_counter() - started
        computed, computing = process_time(), process_time() - computed
        memory = {"bare": bare, "opened": opened, "peak": resident("VmHWM")}
        runs.append({"open": opening, "run": running, "close": 0.0, "cpu": computing, **memory, **done})
        opening = 0.0
    started = perf_counter()
    tool.close()
    runs[-1]["close"] = perf_counter() - started
    runs[-1]["cpu"] += process_time() - computed
    return runs


def main() -> None:
    """Warm up, measure, print."""
    name, place, state, *corpora = sys.argv[1:]
    warnings.simplefilter("ignore")  # of stores this size in one process
    logging.disable()
    module = importlib.import_module(f"benchmarks.peers.with_{name}")
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus", 10)
        measured(module.TOOL, ":memory:", Path(folder), [Path(folder) / "corpus"] * 2)
    runs = measured(module.TOOL, place, Path(state), [Path(corpus) for corpus in corpora])
    print(json.dumps({"versions": {package: version(package) for package in module.PACKAGES}, "runs": runs}))


if __name__ == "__main__":
    main()
