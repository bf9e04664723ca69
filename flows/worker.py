"""Prefect's process worker, ended in order: `python -m flows.worker --pool kvembed-cpu`.

Takes the options of `prefect worker start`.

A worker of Prefect that is told to end kills its runs on the spot and leaves them "Running" for good. Here the runs are
told first: each releases what it holds, keeps what it committed, and reports that it was aborted. Then the worker goes.
It is what a container stops by, and a machine that shuts down.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

PATIENCE = 30.0
"""Seconds that a run has to end; one that takes longer is killed, which loses no committed work."""

_LOOK = 0.1
_WORKER = (sys.executable, "-m", "prefect", "worker", "start", "--type", "process")
_RUN = b"prefect.engine"


def main(arguments: Sequence[str]) -> int:
    """Run a worker with the options of `prefect worker start`, and return its exit code."""
    return supervised([*_WORKER, *arguments])


def supervised(command: Sequence[str]) -> int:
    """Run what starts flow runs until it ends, or until this process is told to; then its runs end first.

    Args:
        command: Prefect's worker, or what serves deployments; its flow runs are its own children.

    Returns:
        Exit code: of the command when it ends by itself, else 0.
    """
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    # In a session of its own, where Ctrl-C at the terminal does not reach it before its runs have ended.
    worker = subprocess.Popen(command, start_new_session=True)
    while worker.poll() is None and not ending.wait(_LOOK):
        pass
    if worker.poll() is not None:
        return worker.returncode
    end_runs(worker.pid)
    worker.terminate()
    worker.wait()
    return 0


def end_runs(worker: int, patience: float = PATIENCE) -> None:
    """Tell the flow runs of a worker to end, and wait until they have.

    Args:
        worker: Its process.
        patience: Seconds; what is left then is killed by the worker's own end.
    """
    deadline = time.monotonic() + patience
    told: set[int] = set()
    while (running := flow_runs(worker)) and time.monotonic() < deadline:
        for process in running - told:
            _tell(process)
        told |= running
        time.sleep(_LOOK)


def flow_runs(worker: int) -> set[int]:
    """Return the processes of a worker that run a flow; none where Linux' /proc is not there."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            runs = int(parent) == worker and state != "Z" and _RUN in (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if runs:
            found.add(int(process.name))
    return found


def _tell(process: int) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(process, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
