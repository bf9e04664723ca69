"""Portions dealt to whichever worker is free, and what the workers say in return."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from multiprocessing.connection import wait
from time import monotonic
from typing import TYPE_CHECKING

from kvembed.child_process import Failed
from kvembed.errors import WorkerError
from pipelines.errors import TransientError
from pipelines.executors.portions import Portion, Settled
from pipelines.executors.worker import Ask, Ended, Started, answered
from pipelines.point_store import PointStore
from pipelines.shards import estimated_chunks

if TYPE_CHECKING:
    from pipelines.documents import Document
    from pipelines.executors import ShardJob
    from pipelines.executors.seat import Seat

_IN_HAND = 2
"""Portions per worker: the one it embeds, and the one it takes next."""
_SMALLEST, _LARGEST = 32, 512  # chunks of a portion, or documents
_AT_THE_END = 3  # portions that each worker is to have of what is left
_SHORT, _LONG = 4.0, 16.0  # seconds a portion shall take
_CHARACTERS = 4_000_000
_OFTEN = 0.05  # seconds between two looks at the workers while the source is read


class PortionCutter:
    """Cuts documents into portions that take a worker some seconds, towards the end into smaller ones.

    Args:
        job: What the documents have in common.
        workers: Who takes them.
        keys: Names for the portions, each once in a run.
    """

    def __init__(self, job: ShardJob, workers: int, keys: Iterator[str]) -> None:
        self._job = job
        self._workers = workers
        self._keys = keys
        self._size = _SMALLEST
        self._left = job.chunks

    def portions(self, documents: Iterable[Document]) -> Iterator[Portion]:
        """Cut documents as they come."""
        batch: list[Document] = []
        chunks = characters = 0
        for document in documents:
            batch.append(document)
            chunks += estimated_chunks(document, self._job.chunking.max_tokens)
            characters += len(document.text)
            if chunks >= self._wanted() or len(batch) >= _LARGEST or characters >= _CHARACTERS:
                self._left -= chunks
                yield self.portion(batch)
                batch, chunks, characters = [], 0, 0
        if batch:
            yield self.portion(batch)

    def _wanted(self) -> int:
        """Return how many chunks the next portion shall have: of what is left, each worker is to have several."""
        return max(_SMALLEST, min(self._size, self._left // (_AT_THE_END * self._workers)))

    def portion(self, documents: Sequence[Document]) -> Portion:
        """Make a portion of some documents."""
        job = self._job
        ids = [document.id for document in documents]
        donors = {one: job.donors[one] for one in ids if one in job.donors}
        return Portion(next(self._keys), tuple(documents), donors, frozenset(filter(job.was_committed, ids)))

    def took(self, seconds: float) -> None:
        """Learn from what a portion took."""
        if seconds < _SHORT:
            self._size = min(self._size * 2, _LARGEST)
        elif seconds > _LONG:
            self._size = max(self._size // 2, _SMALLEST)


class Dealing:
    """Deals the documents of one call.

    Args:
        seats: Of workers that know the work.
        job: What the documents have in common.
        documents: To be embedded.
        keys: Names for the portions.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        job: ShardJob,
        documents: Iterable[Document],
        keys: count[int],
    ) -> None:
        self._seats = seats
        self._job = job
        self._points = PointStore(job.store, job.collection.physical)
        self._cutter = PortionCutter(job, len(seats), (f"{job.marks.run}/{number}" for number in keys))
        self._portions = self._cutter.portions(self._looking_up(documents))
        self._again: deque[Portion] = deque()
        self._looked = monotonic()
        self._through = 0

    def run(self) -> Iterator[int]:
        """Deal until all is through; yields how many documents are."""
        told = 0
        while self._deal():
            self._listen(self._time_left())
            if self._through > told:
                told = self._through
                yield told

    def _deal(self) -> bool:
        """Give everybody enough; False when nothing is left, in any hand."""
        for most in range(_IN_HAND):
            for seat in self._seats:
                if len(seat.in_hand) <= most and (portion := self._next()) is not None:
                    seat.give(portion)
        return any(seat.in_hand for seat in self._seats)

    def _next(self) -> Portion | None:
        return self._again.popleft() if self._again else next(self._portions, None)

    def _looking_up(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Answer the workers now and then while the source is read."""
        for document in documents:
            if monotonic() - self._looked > _OFTEN:
                self._listen(0.0)
            yield document

    def _time_left(self) -> float:
        return max(0.0, min(seat.patient_until for seat in self._seats if seat.in_hand) - monotonic())

    def _listen(self, seconds: float) -> None:
        ready = wait([seat.connection for seat in self._seats], seconds)
        for seat in self._seats:
            if seat.connection in ready:
                self._heard(seat)
            elif seat.in_hand and monotonic() > seat.patient_until:
                self._again.extendleft(reversed(seat.replaced()))  # it hangs
        self._looked = monotonic()

    def _heard(self, seat: Seat) -> None:
        message = seat.received()
        if message is None:
            self._again.extendleft(reversed(seat.replaced()))
        elif isinstance(message, Ask):
            seat.tell(answered(message, self._job.collection.ledger, self._points))
        elif isinstance(message, Settled):
            self._settled(seat, message)
        elif isinstance(message, Ended):
            self._cutter.took(monotonic() - seat.in_hand.popleft().since)
            if seat.in_hand:
                seat.in_hand[0].since = monotonic()
        elif isinstance(message, Started):
            self._started(seat, message)
        elif isinstance(message, Failed):
            raise _raised(message, seat)

    def _settled(self, seat: Seat, settled: Settled) -> None:
        left = seat.in_hand[0].left
        for document_id in settled.documents:
            left.pop(document_id, None)
        writer = self._job.writer
        writer.tally.add(settled.tally)
        writer.committed |= settled.followed
        self._through += len(settled.documents)
        writer.check_quarantined()

    def _started(self, seat: Seat, started: Started) -> None:
        if started.fingerprint != self._job.encoder.fingerprint:
            raise TransientError(
                f"the worker at {seat.place.name} loaded another encoder than the run began with: the model's files "
                "changed meanwhile; what was committed stays; run again"
            )
        seat.has_loaded()


def _raised(failed: Failed, seat: Seat) -> Exception:
    """Return the error as it was raised in the worker, or one that quotes it."""
    error = failed.error() or WorkerError(seat.place.name, f"raised {failed.kind}: {failed.message}")
    error.add_note(f"In the worker at {seat.place.name}:\n{failed.trace}")
    return error
