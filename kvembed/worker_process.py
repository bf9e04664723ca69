"""The process of one device: it loads the model once, answers its parent, and ends when its parent does.

It is started as a fresh interpreter that imports this module and nothing of the program that started it, so that
program's main module need not be guarded. Everything comes and goes through one socket; when that is closed, on
purpose or because the other side died, the process ends at once.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch

from kvembed.batching import Batch
from kvembed.child_process import Failed, attend
from kvembed.config import EncoderConfig
from kvembed.models import ModelHashes
from kvembed.passes import Pass
from kvembed.throughput import OneDevice, OneDeviceRunner


@dataclass(frozen=True, slots=True)
class Start:
    """What to load: the first message to a worker."""

    config: EncoderConfig
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Started:
    """The model is loaded; `ModelFacts` with the tokenizer as JSON."""

    tokenizer: str
    dimension: int
    num_layers: int
    reroutable: tuple[int, ...]
    max_positions: int | None
    hashes: ModelHashes
    revision: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """Work of a call follows; `work` is None if it is the same as in the call before."""

    number: int
    work: Pass | None
    batch_tokens: int | None
    longest: int


@dataclass(frozen=True, slots=True)
class Called:
    """The worker is ready for the batches of a call."""

    number: int
    budget: int


@dataclass(frozen=True, slots=True)
class Part:
    """The next `rows` texts of the batches sent are computed; the array's bytes follow as a message of their own."""

    call: int
    rows: int
    shape: tuple[int, ...]
    budget: int
    splits: int


_Inbox = queue.SimpleQueue[object]


def serve(descriptor: int) -> None:
    """Be the worker at the other end of a socket, until it is closed."""
    inbox: _Inbox = queue.SimpleQueue()
    connection = attend(descriptor, inbox.put)
    start = inbox.get()
    assert isinstance(start, Start)  # noqa: S101 - the parent sends nothing else first
    torch.set_num_threads(start.threads)
    try:
        machine = OneDevice.load(start.config, torch.device(start.device))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        connection.send(Failed.of(0, error))
        return
    facts = machine.facts
    named = {name: getattr(facts, name) for name in Started.__slots__}
    connection.send(Started(**{**named, "tokenizer": facts.tokenizer.to_str()}))
    _Server(connection, inbox, machine).run()


class _Server:
    def __init__(self, connection: Connection, inbox: _Inbox, machine: OneDevice) -> None:
        self._connection = connection
        self._inbox = inbox
        self._machine = machine
        self._runner: OneDeviceRunner | None = None
        self._next: Call | None = None

    def run(self) -> None:
        while True:
            call = self._next or self._inbox.get()
            self._next = None
            if not isinstance(call, Call):  # a batch of a call that failed
                continue
            try:
                self._answer(call)
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                self._connection.send(Failed.of(call.number, error))

    def _answer(self, call: Call) -> None:
        if call.work is not None:
            self._runner = None  # what the old pass holds on the device makes room for the new one
            self._runner = self._machine.bind(call.work)
        runner = self._runner
        if runner is None:
            raise RuntimeError("the pass of this call could not be set up in the call before")
        budget = runner.budget(call.batch_tokens, call.longest)
        self._connection.send(Called(call.number, budget.tokens))
        for done in runner.computed(self._batches(), budget):
            values = np.ascontiguousarray(done.values, dtype=np.float32)
            rows = len(done.positions)
            self._connection.send(Part(call.number, rows, values.shape, budget.tokens, budget.splits))
            self._connection.send_bytes(values.data.cast("B"))

    def _batches(self) -> Iterator[Batch]:
        while True:
            if self._inbox.empty():
                yield []  # nothing to compute meanwhile: send what is done
            message = self._inbox.get()
            if isinstance(message, Call):
                self._next = message
                return
            yield message  # type: ignore[misc]
