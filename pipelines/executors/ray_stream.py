"""A dataset of Ray Data as it runs: a queue that portions go into, a task that takes them, a pool of actors."""

from __future__ import annotations

import faulthandler
import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from kvembed.child_process import Failed
from pipelines.errors import TransientError
from pipelines.executors.portions import Portion, PortionWriter, Settled, Work
from pipelines.executors.worker import Start, served_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray.data import Dataset
    from ray.util.queue import Queue

    Batch = Mapping[str, NDArray[np.object_]]

_LOOK = 0.1  # seconds more than the patience of the actors, which say themselves what they hung in


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a portion."""

    key: str
    settled: tuple[Settled, ...]
    seconds: float
    failed: Failed | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """What a dataset's actors are made of.

    Attributes:
        start: What each loads.
        work: What they have to know of the pass.
        fingerprint: Of the encoder that the run began with.
        workers: How many there are.
        patience: Seconds that they may take for a portion.
    """

    start: Start
    work: Work
    fingerprint: str
    workers: int
    patience: float


class Embedder:
    """An actor: holds the model, and embeds one portion after the other."""

    def __init__(self, pool: Pool) -> None:
        self._patience = pool.patience
        self._settled: list[Settled] = []
        self._writer: PortionWriter | None = None
        self._failed: Failed | None = None
        try:
            encoder = pool.start.load(pool.start.config, pool.start.device)
            if encoder.fingerprint != pool.fingerprint:
                raise TransientError(
                    "a worker of the Ray cluster loaded another encoder than the run began with: the model's files "
                    "differ between machines, or changed meanwhile; what was committed stays"
                )
            assert pool.work.address is not None  # noqa: S101 - the executor refuses a store without
            self._writer = served_writer(pool.work, pool.work.address, encoder, self._settled.append)
        except Exception as error:  # noqa: BLE001 - raised again in the driver; Ray would start the actor for ever
            self._failed = Failed.of(0, error)

    def __call__(self, batch: Batch) -> Batch:
        """Embed the one portion of a batch."""
        portion = cast("Portion", pickle.loads(batch["portion"][0]))
        started, failed = perf_counter(), self._failed
        # Ray has no eye on actors that hang. This thread needs no lock of the interpreter to end the process.
        faulthandler.dump_traceback_later(self._patience, exit=True)
        try:
            if self._writer is not None:
                self._writer.embed(portion)
        except Exception as error:  # noqa: BLE001 - raised again in the driver
            failed = Failed.of(0, error)
        finally:
            faulthandler.cancel_dump_traceback_later()
        settled, self._settled[:] = tuple(self._settled), []
        return _row("outcome", Outcome(portion.key, settled, perf_counter() - started, failed))


class Stream:
    """A running dataset: portions in, outcomes out.

    Args:
        pool: Who embeds.
        waiting: Portions that the queue holds.
    """

    def __init__(self, pool: Pool, waiting: int) -> None:
        from ray.util.queue import Queue

        self._patience = pool.patience
        self._feed = Queue(maxsize=waiting, actor_options={"num_cpus": 0})
        self._outcomes: queue.SimpleQueue[Outcome | Exception | None] = queue.SimpleQueue()
        self._ended = False
        threading.Thread(target=self._collect, args=(pool,), name="ray outcomes", daemon=True).start()

    def put(self, portion: Portion) -> None:
        """Give a portion to whichever actor is free."""
        self._feed.put(pickle.dumps(portion), timeout=self._patience)

    def end(self) -> None:
        """Say that no more portions come."""
        self._feed.put(None, timeout=self._patience)

    def next(self) -> Outcome | None:
        """Wait for an outcome; None when the dataset is at its end."""
        if self._ended:
            return None
        try:
            found = self._outcomes.get(timeout=self._patience + _LOOK)
        except queue.Empty:
            raise TransientError(
                f"no worker of the Ray cluster answered for {self._patience:.0f} s; `ray status` and the logs of its "
                "workers say more; what was committed stays"
            ) from None
        if isinstance(found, Exception):
            raise found
        self._ended = found is None
        return found

    def close(self) -> None:
        """End the queue, and with it what still takes from it."""
        self._feed.shutdown(force=True)

    def _collect(self, pool: Pool) -> None:
        try:
            for row in _dataset(self._feed, pool).iter_rows():
                self._outcomes.put(cast("Outcome", pickle.loads(row["outcome"])))
            self._outcomes.put(None)
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self._outcomes.put(TransientError(f"Ray Data ended with {type(error).__name__}: {error}"))


def _dataset(feed: Queue, pool: Pool) -> Dataset:
    """Describe the dataset; nothing of it is made before it is read."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # every portion goes on at once
    gpus = 1 if pool.start.device == "cuda" else 0
    found = ray.data.range(1, override_num_blocks=1)
    # Of a size of its own, the task is not fused with the actors: it would die with one, and take the queue along.
    found = found.map_batches(_taking(feed), batch_size=None, num_cpus=1, compute=ray.data.TaskPoolStrategy(size=1))
    return found.map_batches(
        Embedder,
        fn_constructor_args=(pool,),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=pool.workers),
    )


def _taking(feed: Queue) -> Callable[[Batch], Iterator[Batch]]:
    """Return what takes portions until there are no more."""

    def take(_: Batch) -> Iterator[Batch]:
        while (portion := feed.get()) is not None:
            yield {"portion": np.array([portion], dtype=object)}

    return take


def _row(name: str, value: object) -> Batch:
    return {name: np.array([pickle.dumps(value)], dtype=object)}
