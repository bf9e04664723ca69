"""The parent's end of a worker: its process and the socket to it."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import torch
from numpy.typing import NDArray

from kvembed.batching import Batch
from kvembed.child_process import launch
from kvembed.errors import WorkerDiedError
from kvembed.passes import Pass

_PATIENCE = 5.0  # seconds for a process whose socket is closed to end


class WorkerLink:
    """A worker as its parent sees it.

    Attributes:
        device: The worker's.
        connection: To wait on; it is readable at once when the worker dies.
        whole: False once a message was cut off half-way, by Ctrl-C say: nothing can be said to this worker any more.
        work: The pass it has.
        splits: Of the call that goes on.
        in_hand: Batches it was sent and has not answered, without the texts that it has.
    """

    def __init__(self, device: torch.device, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.device = device
        self.connection = connection
        self.whole = True
        self.work: Pass | None = None
        self.splits = 0
        self.in_hand: deque[Batch] = deque()
        self._process = process

    @property
    def process_id(self) -> int:
        """Of the worker."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send a record.

        Raises:
            WorkerDiedError: there is nobody to take it.
        """
        with self._exchange():
            self.connection.send(message)

    def received(self) -> object:
        """Wait for a record.

        Raises:
            WorkerDiedError: there is nobody to send one.
        """
        with self._exchange():
            return self.connection.recv()

    def array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Wait for the numbers of an array, which follow its record.

        Raises:
            WorkerDiedError: there is nobody to send them.
        """
        data = bytearray(4 * int(np.prod(shape)))
        with self._exchange():
            self.connection.recv_bytes_into(data)
        return np.frombuffer(data, dtype=np.float32).reshape(shape)

    def end(self) -> None:
        """Begin to end the process; it holds nothing that has to be saved."""
        self.connection.close()
        self._process.kill()

    def ended(self) -> None:
        """Wait until it has."""
        self._process.wait()

    def forget(self) -> None:
        """In a fork: close this copy of the socket and leave the process to its parent."""
        self.connection.close()
        self._process.returncode = 0  # or its finalizer would look for a child that is none

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        self.whole = False
        try:
            yield
        except (EOFError, OSError) as error:
            raise WorkerDiedError(str(self.device), self._exit_code()) from error
        self.whole = True

    def _exit_code(self) -> int | None:
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return None


def launched(device: torch.device) -> WorkerLink:
    """Start the process of a device."""
    return WorkerLink(device, *launch("kvembed.worker_process:serve"))


def end_workers(workers: list[WorkerLink], owner: int) -> None:
    """End all processes and empty the list; in a fork of the owner leave both alone."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.ended()
    workers.clear()
