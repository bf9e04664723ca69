"""Documents into a collection: new points, then the ledger entry, then the old points go.

Documents are encoded and written in groups. Before a group is written the ledger names its documents as in flight;
should the run end inside, the next one looks at exactly these. One thread writes, as an embedded store demands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from pipelines.chunking import CHUNKING_FAILURES
from pipelines.cutting import Cutting, Piece
from pipelines.documents import Point
from pipelines.drafts import Draft, Pending, Ready, Tally
from pipelines.encoding import encode_chunks, reason_of
from pipelines.errors import TooManyQuarantinedError
from pipelines.ledger import LedgerEntry, Quarantine
from pipelines.planning import still_quarantined
from pipelines.points import payload, payload_digest
from pipelines.recovery import undo
from pipelines.store import batches, json_bytes, sized_batches

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import Chunker
    from pipelines.documents import Document
    from pipelines.ledger import Ledger
    from pipelines.marks import Marks
    from pipelines.point_store import PointStore

_SMALLEST_GROUP = 32
_LARGEST_GROUP = 512
_SHORT, _LONG = 4.0, 16.0  # seconds of encoding per group: commits come often, sorting by length still pays
_REMOVALS = 256
_NAMED = 3
_CHARACTERS = 8_000_000  # of documents that wait to be committed


class Writer:
    """Brings documents into one collection.

    Args:
        name: Of the collection, for messages.
        ledger: Of the collection.
        points: Of the collection.
        encoder: The encoder that fills it.
        chunker: Makes what cuts documents, when there are some.
        pipeline: As `Survey.pipeline`.
        marks: Told what is being written.
        donors: New id -> old id, of documents whose text is the same under another id.
        allowed: More quarantined documents than this end the run; None lets it go on.
        tally: Goes on counting here.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        points: PointStore,
        encoder: KVEncoder,
        chunker: Callable[[], Chunker],
        pipeline: str,
        marks: Marks,
        *,
        donors: Mapping[str, str] | None = None,
        allowed: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self.committed: set[str] = set()
        """Of the documents with a donor, those that are searchable under their new id."""
        self.settled: Callable[[Sequence[Draft]], None] | None = None
        """Told which documents are through, whenever some are: committed or quarantined."""
        self._name = name
        self._ledger = ledger
        self._points = points
        self._encoder = encoder
        self._chunker = chunker
        self._cutting: Cutting | None = None
        self._pipeline = pipeline
        self._marks = marks
        self._donors = donors if donors is not None else {}
        self._allowed = allowed
        self._pending: list[Pending] = []
        self._ready: list[Ready] = []
        self._drafts: list[Draft] = []
        self._characters = 0  # of the drafts' documents, which are held until they are committed
        self._group = _SMALLEST_GROUP
        self._through = 0

    @property
    def through(self) -> int:
        """Documents that are committed or quarantined."""
        return self._through

    def forget(self) -> None:
        """Drop what was taken and not committed, after an error."""
        self._pending, self._ready, self._drafts, self._characters = [], [], [], 0

    def recover(self, documents: Sequence[str]) -> None:
        """Undo what a process that was cut short left of documents it never committed."""
        undo(documents, self._ledger, self._points, self._marks.run, _REMOVALS)

    def write(self, batch: Sequence[Document]) -> Iterator[int]:
        """Take documents, in order; they are searchable after `flush` at the latest.

        Yields:
            How many are through with, whenever more are.

        Raises:
            TooManyQuarantinedError: more failed than are allowed.
        """
        through = self._through
        former = {document.id: self._donors[document.id] for document in batch if document.id in self._donors}
        before = self._ledger.get([document.id for document in batch] + list(former.values()))
        for document in batch:
            donor = before.get(former.get(document.id, ""))
            draft = Draft(document, document.content_hash, before.get(document.id), donor)
            self._drafts.append(draft)
            self._characters += len(document.text) + len(document.id)
            self._cut(draft)
            draft.complete = True
            if len(self._drafts) >= _LARGEST_GROUP or self._characters >= _CHARACTERS:
                self._flush()
            if self._through > through:
                through = self._through
                yield through

    def quarantine(self, rejected: Iterable[tuple[str, str, Quarantine]]) -> None:
        """Note documents that cannot be indexed; a form that is searchable stays so.

        Args:
            rejected: Document id, source, reason.
        """
        for batch in batches(rejected, _REMOVALS):
            before = self._ledger.get([document_id for document_id, _, _ in batch])
            entries = [
                replace(before.get(document_id, LedgerEntry(document_id, source)), quarantine=why)
                for document_id, source, why in batch
            ]
            self._marks.open()
            run = self._marks.run
            self._ledger.put([replace(entry, generation=run) for entry in entries], run)

    def remove(self, document_ids: Iterable[str], *, moved: bool = False) -> Iterator[int]:
        """Forget documents and delete their points, a batch at a time; yields how many went.

        Args:
            document_ids: Which.
            moved: They are searchable under another id, or elsewhere, and no loss.
        """
        self._flush()
        for batch in sized_batches(document_ids, json_bytes, _REMOVALS):
            started = perf_counter()
            entries = self._ledger.get(batch)
            self._marks.mark(tuple(batch))
            self._ledger.remove(batch)
            doomed = [point_id for entry in entries.values() for point_id in entry.point_ids]
            self._points.delete(doomed)
            self.tally.points_deleted += len(doomed)
            self.tally.delete(0 if moved else sum(entry.committed for entry in entries.values()))
            self.tally.seconds["write"] += perf_counter() - started
            yield len(batch)

    def flush(self) -> Iterator[int]:
        """Write what waits; yields as `write` does, and raises as it does."""
        self._flush()
        yield self._through

    def _cut(self, draft: Draft) -> None:
        """Cut a document and queue its chunks; one that cannot be cut fails by itself."""
        if self._cutting is None:
            self._cutting = Cutting(self._chunker(), self._points, self.tally)
        pieces = self._cutting.pieces(draft)
        while draft.failure is None:
            try:
                piece = next(pieces, None)
            except CHUNKING_FAILURES as error:
                self._fail(draft, "chunk", reason_of(error))
                return
            if piece is None:
                return
            self._place(draft, piece)
            if len(self._pending) + len(self._ready) >= self._group:
                self._flush()

    def _place(self, draft: Draft, piece: Piece) -> None:
        if piece.described is None:
            self._pending.append(Pending(draft, piece.chunk, piece.point_id))
            draft.waiting += 1
        elif piece.vector is not None:
            self._ready.append(Ready(draft, Point(piece.point_id, piece.vector, piece.described)))
        elif piece.fresh:
            draft.moved[piece.point_id] = piece.described

    def _flush(self) -> None:
        """Encode what waits, write it, and commit every document that is complete with it."""
        points = self._encode()
        if not self._drafts:
            return
        started = perf_counter()
        points += [ready.point for ready in self._ready]
        self._marks.mark(tuple(draft.document.id for draft in self._drafts))
        self._points.upsert(points)
        self.tally.points_written += len(points)
        self._ready = []
        self._commit()
        self.tally.seconds["write"] += perf_counter() - started
        self.check_quarantined()

    def check_quarantined(self) -> None:
        """End the run when more documents failed in it than are allowed.

        Raises:
            TooManyQuarantinedError: they did.
        """
        count = len(self.tally.quarantined) + self.tally.rejected
        if self._allowed is None or count <= self._allowed:
            return
        self._marks.mark(tuple(draft.document.id for draft in self._drafts))  # what the next run has to undo
        first = [f"{found.document_id!r}: {found.reason}" for found in self.tally.quarantined[:_NAMED]]
        raise TooManyQuarantinedError(self._name, count, self._allowed, first)

    def _commit(self) -> None:
        failed = [draft for draft in self._drafts if draft.failure is not None]
        done = [draft for draft in self._drafts if draft.complete and not draft.waiting and draft.failure is None]
        # Only now: a form that fails half-way leaves the payloads of the form that stays searchable as they were.
        moved = {point_id: described for draft in done for point_id, described in draft.moved.items()}
        self._points.overwrite_payloads(moved)
        self.tally.points_updated += len(moved)
        run = self._marks.run
        self._ledger.put([draft.entry(run) for draft in done] + [draft.setback(run) for draft in failed], run)
        stale = sorted(point_id for draft in done for point_id in set(draft.old_ids) - set(draft.point_ids))
        self._points.delete(stale)
        self._points.delete(
            sorted(point_id for draft in failed for point_id in set(draft.point_ids) - set(draft.old_ids))
        )
        self.tally.points_deleted += len(stale)
        for draft in done:
            followed = draft.document.id in self._donors
            self.tally.count(draft, moved=followed)
            self.committed |= {draft.document.id} if followed else set()
        self._through += len(done) + len(failed)
        if self.settled is not None:
            self.settled([*done, *failed])
        settled = {id(draft) for draft in (*done, *failed)}
        self._drafts = [draft for draft in self._drafts if id(draft) not in settled]
        self._characters = sum(len(draft.document.text) + len(draft.document.id) for draft in self._drafts)

    def _encode(self) -> list[Point]:
        pending, self._pending = self._pending, []
        if not pending:
            return []
        started = perf_counter()
        encoded = encode_chunks(self._encoder, [item.chunk for item in pending])
        seconds = perf_counter() - started
        self._group = _next_group(self._group, seconds)
        self.tally.seconds["embed"] += seconds
        points = []
        for position, item in enumerate(pending):
            item.draft.waiting -= 1
            found = encoded.chunks.get(position)
            if found is None:
                self._fail(item.draft, "embed", encoded.failures[item.chunk.document_id])
                continue
            self.tally.chunks_embedded += 1
            self.tally.tokens += found.tokens
            item.draft.count_cut(found.truncated_tokens)
            described = payload(item.draft.document, item.chunk, truncated_tokens=found.truncated_tokens)
            item.draft.digests[item.chunk.index] = payload_digest(described)
            points.append(Point(item.point_id, found.vector, described))
        return points

    def _fail(self, draft: Draft, stage: str, reason: str) -> None:
        if draft.failure is not None:
            return
        draft.failure = Quarantine(draft.content_hash, stage, reason, self._pipeline)
        self.tally.fail(still_quarantined(draft.document.id, draft.document.source, draft.failure))
        self._pending = [item for item in self._pending if item.draft is not draft]
        self._ready = [item for item in self._ready if item.draft is not draft]
        draft.waiting = 0


def _next_group(size: int, seconds: float) -> int:
    """Aim at groups that take a few seconds, whatever the model: a kill then costs no more than that."""
    if seconds < _SHORT:
        return min(size * 2, _LARGEST_GROUP)
    return max(size // 2, _SMALLEST_GROUP) if seconds > _LONG else size
