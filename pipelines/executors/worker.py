"""A worker of the local executor: it loads the model once, embeds portions, and ends when its parent does.

Everything comes and goes through one socket. Where the parent is the only writer of the store, the worker asks it to
read and write; where there is a server, it opens that by itself, and asks for nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from kvembed.child_process import Failed, attend
from pipelines.documents import Point
from pipelines.executors.portions import Portion, PortionWriter, Settled, Work
from pipelines.followed_lease import FollowedLease
from pipelines.ledger import Ledger
from pipelines.point_store import PointStore
from pipelines.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from kvembed import EncoderConfig, KVEncoder
    from pipelines.errors import JSON
    from pipelines.ledger import LedgerEntry
    from pipelines.run_records import Mark

Load: TypeAlias = "Callable[[EncoderConfig, str], KVEncoder]"
"""Loads an encoder onto a device, in the worker; a function of a module, by whose name it is found there."""


@dataclass(frozen=True, slots=True)
class Start:
    """What to load."""

    load: Load
    config: EncoderConfig
    device: str


@dataclass(frozen=True, slots=True)
class Started:
    """The model is loaded; its fingerprint."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A call of the parent's ledger or points; the parent sends an `Answer`."""

    of: Literal["ledger", "points", "upsert"]
    call: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the call returned."""

    value: object


@dataclass(frozen=True, slots=True)
class Ended:
    """A portion is through."""

    key: str


def serve(descriptor: int) -> None:
    """Be the worker at the other end of a socket, until it is closed."""
    orders: queue.SimpleQueue[object] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def take(message: object) -> None:
        if isinstance(message, Answer):
            answers.put(message)
        else:
            orders.put(message)

    connection = attend(descriptor, take)
    worker = _Worker(connection, answers)
    while True:
        try:
            worker.obey(orders.get())
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            connection.send(Failed.of(0, error))


class _Worker:
    def __init__(self, connection: Connection, answers: queue.SimpleQueue[Answer]) -> None:
        self._connection = connection
        self._parent = _Parent(connection, answers)
        self._encoder: KVEncoder | None = None
        self._writer: PortionWriter | None = None

    def obey(self, order: object) -> None:
        if isinstance(order, Start):
            self._encoder = self._writer = None  # what they hold makes room
            self._encoder = order.load(order.config, order.device)
            self._connection.send(Started(self._encoder.fingerprint))
        elif isinstance(order, Work):
            self._writer = self._opened(order)
        elif isinstance(order, Portion) and self._writer is not None:
            self._writer.embed(order)
            self._connection.send(Ended(order.key))

    def _opened(self, work: Work) -> PortionWriter:
        assert self._encoder is not None  # noqa: S101 - the parent sends `Start` first
        if work.address is None:
            ledger = cast("Ledger", AskedLedger(self._parent))
            points = cast("PointStore", AskedPoints(self._parent))
            return PortionWriter(work, ledger, points, self._encoder, self._connection.send)
        return served_writer(work, work.address, self._encoder, self._connection.send)


def served_writer(work: Work, address: str, encoder: KVEncoder, report: Callable[[Settled], None]) -> PortionWriter:
    """Return a writer to a server, under the lease of the run.

    Args:
        work: What there is to know of the pass.
        address: URL of the server.
        encoder: Fills the collection.
        report: Told what is through.
    """
    store = open_store(address)
    if work.ticket is not None:
        store = store.guarded(FollowedLease(store, work.ticket).check)
    return PortionWriter(work, Ledger(store, work.physical), PointStore(store, work.physical), encoder, report)


class _Parent:
    """The process that writes for its workers."""

    def __init__(self, connection: Connection, answers: queue.SimpleQueue[Answer]) -> None:
        self._connection = connection
        self._answers = answers

    def ask(self, of: Literal["ledger", "points", "upsert"], call: str, *arguments: object) -> object:
        self._connection.send(Ask(of, call, arguments))
        return self._answers.get().value


class AskedLedger:
    """The ledger as far as a writer needs it, in the parent."""

    def __init__(self, parent: _Parent) -> None:
        self._parent = parent

    def get(self, document_ids: Iterable[str], *, brief: bool = False) -> dict[str, LedgerEntry]:
        """Ask for `Ledger.get`."""
        return cast("dict[str, LedgerEntry]", self._parent.ask("ledger", "get", list(document_ids)))

    def put(self, entries: Sequence[LedgerEntry], run: int) -> None:
        """Ask for `Ledger.put`."""
        self._parent.ask("ledger", "put", entries, run)

    def mark(self, key: str) -> Mark | None:
        """Ask for `Ledger.mark`."""
        return cast("Mark | None", self._parent.ask("ledger", "mark", key))

    def put_mark(self, mark: Mark) -> None:
        """Ask for `Ledger.put_mark`."""
        self._parent.ask("ledger", "put_mark", mark)

    def drop_marks(self, keys: Sequence[str]) -> None:
        """Ask for `Ledger.drop_marks`."""
        self._parent.ask("ledger", "drop_marks", keys)


class AskedPoints:
    """The points as far as a writer needs them, in the parent."""

    def __init__(self, parent: _Parent) -> None:
        self._parent = parent

    def upsert(self, points: Sequence[Point]) -> None:
        """Ask for `PointStore.upsert`; all vectors go as one array of float32."""
        if points:
            vectors = np.stack([point.vector for point in points])
            self._parent.ask("upsert", "", [point.id for point in points], [point.payload for point in points], vectors)

    def overwrite_payloads(self, payloads: Mapping[str, Mapping[str, JSON]]) -> None:
        """Ask for `PointStore.overwrite_payloads`."""
        if payloads:
            self._parent.ask("points", "overwrite_payloads", payloads)

    def delete(self, point_ids: Sequence[str]) -> None:
        """Ask for `PointStore.delete`."""
        if point_ids:
            self._parent.ask("points", "delete", point_ids)

    def payloads(self, point_ids: Sequence[str]) -> dict[str, Mapping[str, JSON]]:
        """Ask for `PointStore.payloads`."""
        if not point_ids:
            return {}
        return cast("dict[str, Mapping[str, JSON]]", self._parent.ask("points", "payloads", point_ids))

    def vectors(self, point_ids: Sequence[str]) -> dict[str, tuple[NDArray[np.float32], Mapping[str, JSON]]]:
        """Ask for `PointStore.vectors`."""
        found = self._parent.ask("points", "vectors", point_ids) if point_ids else {}
        return cast("dict[str, tuple[NDArray[np.float32], Mapping[str, JSON]]]", found)

    def of_documents(self, document_ids: Sequence[str]) -> set[str]:
        """Ask for `PointStore.of_documents`."""
        return cast("set[str]", self._parent.ask("points", "of_documents", document_ids))


def answered(ask: Ask, ledger: Ledger, points: PointStore) -> Answer:
    """In the parent: do what a worker asks for.

    Raises:
        PipelineError: the store does not.
    """
    if ask.of == "upsert":
        ids, payloads, vectors = ask.arguments
        rows = zip(
            cast("list[str]", ids),
            cast("NDArray[np.float32]", vectors),
            cast("list[Mapping[str, JSON]]", payloads),
            strict=True,
        )
        points.upsert([Point(point_id, vector, payload) for point_id, vector, payload in rows])
        return Answer(None)
    return Answer(getattr(ledger if ask.of == "ledger" else points, ask.call)(*ask.arguments))


def load_model(config: EncoderConfig, device: str) -> KVEncoder:
    """Load a model, without a word from transformers."""
    from transformers.utils import logging

    from kvembed import KVEncoder

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return KVEncoder(config, device=device)
