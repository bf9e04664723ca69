"""The parent's end of a worker: its place on a device, and the process that has it for now."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from kvembed.child_process import launch
from kvembed.errors import WorkerDiedError
from pipelines.errors import TerminalError
from pipelines.settings import child_environment, cpu_threads, visible_gpus

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from pipelines.documents import Document
    from pipelines.executors.portions import Portion, Work
    from pipelines.executors.worker import Start

_ENTRY = "pipelines.executors.worker:serve"
_PATIENCE = 5.0  # seconds for a process whose socket is closed to end
_STARTS = 3  # processes in a row that may end before the model is loaded
_LOADING = 1800.0  # seconds a model may take to load, from the hub perhaps
_CPU_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs.

    Attributes:
        name: For a person.
        device: As the worker's encoder is told.
        environment: What the worker finds there before it imports anything.
    """

    name: str
    device: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class InHand:
    """A portion that a worker was given, and which of its documents are not through, by id."""

    portion: Portion
    left: dict[str, Document]
    since: float

    def rest(self) -> Portion:
        """Return what is left of it; whoever takes it finds the mark under the same key."""
        return replace(self.portion, documents=tuple(self.left.values()))


class Seat:
    """A place, and the worker that has it.

    Args:
        place: Where.
        patience: Seconds of silence after which a worker with something in hand counts as hung; also what a message to
            one that takes none is given.

    Attributes:
        in_hand: What the worker was given and is not through with, the one it is at first.
        heard: When it last said anything, or was first given something, by `monotonic`.
        loaded: Its model is loaded.
    """

    def __init__(self, place: Place, patience: float) -> None:
        self.place = place
        self._patience = patience
        self.in_hand: deque[InHand] = deque()
        self.heard = 0.0
        self.loaded = False
        self._started: tuple[Start, Work] | None = None
        self._failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """To wait on; it is readable at once when the worker dies."""
        assert self._connection is not None  # noqa: S101 - a seat is taken before it is listened to
        return self._connection

    @property
    def process_id(self) -> int | None:
        """Of the worker, if there is one."""
        return self._process.pid if self._process is not None else None

    def take(self, start: Start, work: Work) -> None:
        """Have a worker that knows what to do; one whose model is another one loads this one."""
        if self._process is None:
            self._process, self._connection = launch(_ENTRY, child_environment(self.place.environment))
            _bound(self._connection, self._patience)
            self._started, self.loaded = None, False
        self.heard = monotonic()
        before, self._started = self._started, (start, work)
        try:
            if before is None or before[0] != start:
                self.loaded = False
                self.connection.send(start)
            self.connection.send(work)
        except OSError:
            return  # whoever listens finds out

    def give(self, portion: Portion) -> None:
        """Give the worker a portion; one that died meanwhile is found out by whoever listens."""
        if not self.in_hand:
            self.heard = monotonic()
        left = {document.id: document for document in portion.documents}
        self.in_hand.append(InHand(portion, left, monotonic()))
        self.tell(portion)

    def tell(self, message: object) -> None:
        """Send a message; nobody may be there to take it."""
        try:
            self.connection.send(message)
        except OSError:
            return  # whoever listens finds out

    def received(self) -> object | None:
        """Return the next message; None when the worker died."""
        try:
            message: object = self.connection.recv()
        except (EOFError, OSError):
            return None
        self.heard = monotonic()
        return message

    @property
    def patient_until(self) -> float:
        """When a silent worker counts as hung, by `monotonic`; one that loads its model is given longer."""
        return self.heard + (self._patience if self.loaded else max(self._patience, _LOADING))

    def has_loaded(self) -> None:
        """Note that the model is loaded."""
        self.loaded, self._failures = True, 0

    def replaced(self) -> Sequence[Portion]:
        """Put another worker in the place of one that died; returns what has to be given to somebody again.

        Raises:
            WorkerDiedError: one after the other died before it had loaded its model.
        """
        exit_code = self.left()
        self._failures += not self.loaded
        if self._failures >= _STARTS:
            raise WorkerDiedError(self.place.name, exit_code)
        again = [held.rest() for held in self.in_hand if held.left]
        self.in_hand.clear()
        assert self._started is not None  # noqa: S101 - it was there
        self.take(*self._started)
        return again

    def left(self) -> int | None:
        """End the worker; it holds nothing that has to be saved. Returns its exit code, None where there was none."""
        process, self._process = self._process, None
        if process is None:
            return None
        self.connection.close()
        try:
            process.wait(_PATIENCE if process.poll() is not None else 0.1)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait()


def _bound(connection: Connection, seconds: float) -> None:
    """Let no message wait longer for a worker that is stopped; the worker then gets half of it, and is given up."""
    wait = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(connection.fileno())) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)


def places(workers: int | None, device: str | None) -> list[Place]:
    """Find places for workers: one per GPU, or equal shares of the CPUs.

    Args:
        workers: How many; None takes one per GPU, or two on CPUs where there are two.
        device: "cpu", "cuda", or None for GPUs if there are any.

    Raises:
        TerminalError: there are fewer GPUs than workers.
    """
    import torch

    gpus = visible_gpus(torch.cuda.device_count()) if device != "cpu" else []
    if gpus or device == "cuda":
        count = len(gpus) if workers is None else workers
        if not 1 <= count <= len(gpus):
            raise TerminalError(
                f"{count} workers need a GPU each, and torch sees {len(gpus)}; ask for fewer, or for the device cpu"
            )
        return [Place(f"GPU {name}", "cuda", {"CUDA_VISIBLE_DEVICES": name}) for name in gpus[:count]]
    count = workers or min(_CPU_WORKERS, cpu_threads())
    threads = str(max(1, cpu_threads() // count))
    share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    return [Place(f"CPU worker {number}", "cpu", {**share, "CUDA_VISIBLE_DEVICES": ""}) for number in range(count)]
