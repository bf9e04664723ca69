"""Several devices: a process for each, work for whoever is free, results in the order of the input.

The parent tokenises, cuts batches and hands them out, longest first and two to a worker, so that none waits for the
next one; it holds no weights. Tokens and vectors go through one socket per worker: a queue shared by several
processes, or a lock in shared memory, would stay locked for ever when its holder is killed, and shared memory itself is
64 MiB in many containers. A worker that dies closes its socket, which the parent sees at once.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from typing import cast

import torch

from kvembed.backbone import ModelFacts
from kvembed.batching import Batch, Budget
from kvembed.child_process import Failed
from kvembed.config import EncoderConfig
from kvembed.errors import EncoderClosedError, WorkerError
from kvembed.passes import Pass
from kvembed.prompts import plain_tokenizer
from kvembed.throughput import Done
from kvembed.worker_link import WorkerLink, end_workers, launched
from kvembed.worker_process import Call, Called, Part, Start, Started

_IN_HAND = 2
"""Batches per worker: the one it computes, and the one it takes next."""


class WorkerPool:
    """Processes that hold the same weights, one per device.

    They start with the pool, and again at the first call after one of them died. Calls of several threads take turns.

    Args:
        config: Names the model.
        devices: One process each; CPU processes share the threads that this process has.

    Raises:
        KVEmbedError: what loading raised in a worker.
        WorkerDiedError: a worker ended while it loaded.
    """

    def __init__(self, config: EncoderConfig, devices: Sequence[torch.device]) -> None:
        self.devices = tuple(devices)
        self._config = replace(config, transform=None)
        self._workers: list[WorkerLink] = []
        self._owner = os.getpid()
        self._closed = False
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)
        weakref.finalize(self, end_workers, self._workers, self._owner)
        with self._turn:
            started = self._start()
        self.facts = ModelFacts(
            **{name: getattr(started, name) for name in Started.__slots__ if name != "tokenizer"},
            tokenizer=plain_tokenizer(started.tokenizer),
        )

    def bind(self, work: Pass) -> PooledRunner:
        """Return a pass over the weights of all workers."""
        return PooledRunner(self, work)

    def close(self) -> None:
        """End the processes; calls after this raise `EncoderClosedError`. A call of another thread is waited for."""
        with self._turn:
            self._closed = True
            end_workers(self._workers, self._owner)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the workers to oneself; start them if there are none.

        Raises:
            EncoderClosedError: the pool was closed.
        """
        with self._turn:
            if self._closed:
                raise EncoderClosedError
            if self._owner != os.getpid():
                self._leave_to_parent()
            if not self._workers:
                self._start()
            try:
                yield
            finally:
                if not all(worker.whole for worker in self._workers):
                    end_workers(self._workers, self._owner)

    def call(self, work: Pass, batch_tokens: int | None, longest: int) -> Budget:
        """Open a call with all workers; what is left over of the call before is thrown away.

        Returns:
            The least of the workers' budgets.
        """
        number = next(self._numbers)
        for worker in self._workers:
            worker.send(Call(number, None if worker.work is work else work, batch_tokens, longest))
            worker.work, worker.splits = None, 0
            worker.in_hand.clear()
        budgets = [self._called(worker, number).budget for worker in self._workers]
        for worker in self._workers:
            worker.work = work
        return Budget(min(budgets))

    def compute(self, batches: Iterator[Batch], budget: Budget) -> Iterator[Done]:
        """Hand out batches and take results until both are at their end."""
        while True:
            self._hand_out(batches)
            if not any(worker.in_hand for worker in self._workers):
                return
            # The idle ones too: one that died would otherwise be missed until the next call.
            ready = wait([worker.connection for worker in self._workers])
            for worker in self._workers:
                if worker.connection in ready:
                    yield self._result(worker, budget)

    def _hand_out(self, batches: Iterator[Batch]) -> None:
        wanted = [worker for most in range(_IN_HAND) for worker in self._workers if len(worker.in_hand) <= most]
        for worker, batch in zip(wanted, batches, strict=False):
            worker.send(batch)
            worker.in_hand.append(list(batch))

    def _result(self, worker: WorkerLink, budget: Budget) -> Done:
        message = worker.received()
        if isinstance(message, Failed):
            raise _raised(message, worker.device)
        part = cast(Part, message)
        values = worker.array(part.shape)
        batch = worker.in_hand[0]
        positions = [position for position, _ in batch[: part.rows]]
        del batch[: part.rows]
        if not batch:
            worker.in_hand.popleft()
        for _ in range(part.splits - worker.splits):
            budget.lower(part.budget)
        worker.splits = part.splits
        return Done(positions, values)

    def _called(self, worker: WorkerLink, number: int) -> Called:
        while True:
            message = worker.received()
            if isinstance(message, Called) and message.number == number:
                return message
            if isinstance(message, Part):
                worker.array(message.shape)
            if isinstance(message, Failed) and message.call == number:
                raise _raised(message, worker.device)

    def _start(self) -> Started:
        threads = torch.get_num_threads() // max(1, sum(device.type == "cpu" for device in self.devices))
        done = False
        try:
            for device in self.devices:
                self._workers.append(launched(device))
            for worker in self._workers:
                worker.send(Start(self._config, str(worker.device), max(1, threads)))
            started = [self._started(worker) for worker in self._workers]
            self._same_weights(started)
            done = True
        finally:
            if not done:
                end_workers(self._workers, self._owner)
        self._config = replace(self._config, revision=started[0].revision)
        return started[0]

    def _started(self, worker: WorkerLink) -> Started:
        message = worker.received()
        if isinstance(message, Failed):
            raise _raised(message, worker.device)
        return cast(Started, message)

    def _same_weights(self, started: Sequence[Started]) -> None:
        known = self.facts.hashes if hasattr(self, "facts") else started[0].hashes
        for worker, found in zip(self._workers, started, strict=True):
            if found.hashes != known:
                raise WorkerError(str(worker.device), "loaded other weights: the model's files changed meanwhile")

    def _leave_to_parent(self) -> None:
        """In a fork: the workers are not children of this process, which starts its own."""
        for worker in self._workers:
            worker.forget()
        self._workers.clear()
        self._owner = os.getpid()
        weakref.finalize(self, end_workers, self._workers, self._owner)


class PooledRunner:
    """A pass on the devices of a pool.

    Args:
        pool: Its processes.
        work: The pass.
    """

    def __init__(self, pool: WorkerPool, work: Pass) -> None:
        self._pool = pool
        self._work = work

    def run(
        self, batches: Callable[[Budget], Iterator[Batch]], batch_tokens: int | None, longest: int
    ) -> Generator[Done]:
        """Compute batches on whichever device is free; takes and raises what `Runner.run` says.

        Raises:
            WorkerDiedError: a process ended.
            EncoderClosedError: the pool was closed.
        """
        with self._pool.turn():
            budget = self._pool.call(self._work, batch_tokens, longest)
            yield from self._pool.compute(batches(budget), budget)


def _raised(failed: Failed, device: torch.device) -> Exception:
    """Return the error as it was raised in the worker, or one that quotes it."""
    error = failed.error() or WorkerError(str(device), f"raised {failed.kind}: {failed.message}")
    error.add_note(f"In the process of {device}:\n{failed.trace}")
    return error
