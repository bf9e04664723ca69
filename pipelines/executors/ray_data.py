"""A Ray cluster embeds: Ray Data's `map_batches` over a pool of actors that hold the model.

The driver reads the source and puts portions into a bounded queue; one task takes them from there, and whichever actor
is free embeds and commits one. Actors write to the store by themselves, so it has to be a server. Ray starts an actor
that died again and gives it the same portion; what the portion's mark says then is all that it needs. A portion that
got lost between queue and actor, with the task that had taken it, is put into the queue once more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING

from pipelines.errors import TerminalError, TransientError
from pipelines.executors.dealing import PortionCutter
from pipelines.executors.portions import Portion, Work
from pipelines.executors.ray_stream import Outcome, Pool, Stream
from pipelines.executors.worker import Load, Start, load_model
from pipelines.settings import decline_ray_statistics

if TYPE_CHECKING:
    from pipelines.documents import Document
    from pipelines.executors import ShardJob

_WAITING = 4
"""Portions per worker that are on their way."""
_PATIENCE = 600.0


class RayExecutor:
    """Workers of a Ray cluster, one per GPU, or per CPU but one.

    Args:
        workers: How many; None takes as many as there is room for.
        device: "cpu", "cuda", or None for GPUs if the cluster has any.
        load: Loads the encoder in a worker; a function of a module that is installed there.
        address: Of the cluster; None takes the one that is connected, or that `RAY_ADDRESS` names, or starts one here.
        patience: Seconds without any outcome after which the run ends; and after which a worker with a portion in hand
            ends itself, to be started again.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        *,
        device: str | None = None,
        load: Load = load_model,
        address: str | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        if patience <= 0 or (workers is not None and workers < 1):
            raise ValueError(f"workers is {workers} and patience {patience} seconds; at least 1, and more than 0")
        if device not in (None, "cpu", "cuda"):
            raise ValueError(f"device of the ray executor is {device!r}; legal are cpu, cuda, or None for the best")
        self._workers = workers
        self._device = device
        self._load = load
        self._address = address
        self._patience = patience
        self._started = False
        self._keys = count()

    def embed_shards(self, job: ShardJob, documents: Iterable[Document]) -> Iterator[int]:
        """Hand documents to the cluster; see `Executor.embed_shards`.

        Raises:
            TerminalError: the store is no server, or the cluster is too small.
            TransientError: no worker answered for so long that none will.
        """
        if job.store.address is None:
            raise TerminalError(
                f"the ray executor's workers write by themselves, and {job.store.label} cannot be opened from other "
                "processes; name a Qdrant server by its URL, or use the local executor"
            )
        self._connect()
        workers, device = self._room()
        job.marks.share()
        start = Start(self._load, job.encoder.config, device)
        work = Work(
            job.marks.run,
            job.collection.name,
            job.collection.physical,
            job.pipeline,
            job.chunking,
            job.store.address,
            job.ticket,
        )
        pool = Pool(start, work, job.encoder.fingerprint, workers, self._patience)
        cutter = PortionCutter(job, workers, (f"{job.marks.run}/{number}" for number in self._keys))
        yield from _Handing(pool, job, cutter).run(documents)

    def close(self) -> None:
        """Leave the cluster, if it was this executor that joined or started it."""
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _connect(self) -> None:
        decline_ray_statistics()
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise TerminalError(
                f'the ray executor needs an extra that is not installed ({error}); pip install "kvembed[ray]"'
            ) from error
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        if not ray.is_initialized():
            ray.init(address=self._address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            self._started = True

    def _room(self) -> tuple[int, str]:
        """Tell how many workers there are to be, and their device.

        A pool that takes every CPU leaves none to the task that feeds it, and Ray Data then waits for ever (ray#44687).
        """
        import ray

        found = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
        device = self._device or ("cuda" if gpus else "cpu")
        room = min(gpus, cpus - 1) if device == "cuda" else cpus - 1
        workers = room if self._workers is None else self._workers
        if not 1 <= workers <= room:
            raise TerminalError(
                f"{workers} workers on {device}, and the Ray cluster has {cpus} CPUs and {gpus} GPUs: a worker takes a "
                f"CPU, on cuda a GPU too, and one CPU reads; there is room for {max(room, 0)}"
            )
        return workers, device


class _Handing:
    """Hands the portions of one call to a dataset, and takes what becomes of them."""

    def __init__(self, pool: Pool, job: ShardJob, cutter: PortionCutter) -> None:
        self._pool = pool
        self._job = job
        self._cutter = cutter
        self._left: dict[str, Portion] = {}
        self._through = 0

    def run(self, documents: Iterable[Document]) -> Iterator[int]:
        """Hand over until all is through; yields how many documents are."""
        portions: Iterable[Portion] = self._cutter.portions(documents)
        while True:
            before = self._through
            yield from self._round(portions)
            if not self._left:
                return
            if self._through == before:
                raise TransientError(f"Ray lost {len(self._left)} portions without a word; run again")
            portions = list(self._left.values())

    def _round(self, portions: Iterable[Portion]) -> Iterator[int]:
        stream = Stream(self._pool, _WAITING * self._pool.workers)
        try:
            for portion in portions:
                self._left[portion.key] = portion
                stream.put(portion)
                while len(self._left) >= _WAITING * self._pool.workers and (found := stream.next()) is not None:
                    yield self._taken(found)
            stream.end()
            while (found := stream.next()) is not None:
                yield self._taken(found)
        finally:
            stream.close()

    def _taken(self, outcome: Outcome) -> int:
        if outcome.failed is not None:
            raise outcome.failed.error() or TerminalError(
                f"a worker of the Ray cluster raised {outcome.failed.kind}: {outcome.failed.message}"
            )
        self._cutter.took(outcome.seconds)
        writer, portion = self._job.writer, self._left.pop(outcome.key, None)
        if portion is not None:
            for settled in outcome.settled:
                writer.tally.add(settled.tally)
                writer.committed |= settled.followed
            self._through += len(portion.documents)
            writer.check_quarantined()
        return self._through
