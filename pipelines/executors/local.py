"""Several processes of this machine embed: one per GPU, or per share of the CPUs.

The parent reads the source and deals portions to whoever is free; it holds no model. The store is written by the
parent, at the workers' bidding, unless it is a server that was named by its URL: then the workers write, under the
run's lease and number. A worker that dies is replaced, and its documents are dealt again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING

from pipelines.executors.dealing import Dealing
from pipelines.executors.portions import Work
from pipelines.executors.seat import Seat, places
from pipelines.executors.worker import Load, Start, load_model

if TYPE_CHECKING:
    from types import TracebackType

    from pipelines.documents import Document
    from pipelines.executors import ShardJob


class LocalExecutor:
    """Workers that stay from one call to the next, until they are closed.

    Args:
        workers: How many; None takes one per GPU, or two on CPUs.
        device: "cpu", "cuda", or None for GPUs if there are any.
        load: Loads the encoder in a worker, from its configuration and its device; a function of a module.
        patience: Seconds of silence after which a worker counts as hung, and is killed as if it had died.

    Raises:
        ValueError: a number is out of range, or the device is another one.
    """

    name = "local"

    def __init__(
        self,
        workers: int | None = None,
        *,
        device: str | None = None,
        load: Load = load_model,
        patience: float = 600.0,
    ) -> None:
        if patience <= 0 or (workers is not None and workers < 1):
            raise ValueError(f"workers is {workers} and patience {patience} seconds; at least 1, and more than 0")
        if device not in (None, "cpu", "cuda"):
            raise ValueError(f"device of the local executor is {device!r}; legal are cpu, cuda, or None for the best")
        self._workers = workers
        self._device = device
        self._seats: list[Seat] = []
        self._load = load
        self._patience = patience
        self._keys = count()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        return [seat.process_id for seat in self._seats if seat.process_id is not None]

    def embed_shards(self, job: ShardJob, documents: Iterable[Document]) -> Iterator[int]:
        """Deal documents to the workers; see `Executor.embed_shards`.

        Raises:
            TerminalError: there are fewer GPUs than workers.
            WorkerDiedError: workers died before they had loaded the model, one after the other.
            WorkerError: a worker raised what cannot be raised here.
        """
        job.marks.share()
        work = Work(
            job.marks.run,
            job.collection.name,
            job.collection.physical,
            job.pipeline,
            job.chunking,
            job.store.address,
            job.ticket,
        )
        done = False
        try:
            self._seats = self._seats or [Seat(place, self._patience) for place in places(self._workers, self._device)]
            for seat in self._seats:
                seat.take(Start(self._load, job.encoder.config, seat.place.device), work)
            yield from Dealing(self._seats, job, documents, self._keys).run()
            done = True
        finally:
            if not done:
                self.close()

    def close(self) -> None:
        """End the workers."""
        for seat in self._seats:
            seat.left()
            seat.in_hand.clear()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
