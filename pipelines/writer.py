"""Documents into a collection: new points, then the ledger entry, then the old points go.

Documents are encoded and written in groups. Before a group is written the ledger names its documents as in flight;
should the run end inside, the next one looks at exactly these. One thread writes, as an embedded store demands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, cast

from pipelines.chunking import CHUNKING_FAILURES
from pipelines.documents import Point
from pipelines.drafts import Draft, Pending, Tally
from pipelines.encoding import encode_chunks, reason_of
from pipelines.ledger import LedgerEntry, Quarantine
from pipelines.manifest import now
from pipelines.planning import still_quarantined
from pipelines.points import METADATA_KEY, Occurrences, payload, payload_digest, payload_hash, text_hash
from pipelines.store import batches

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import Chunker
    from pipelines.collection import Collection
    from pipelines.documents import Chunk, Document
    from pipelines.errors import JSON
    from pipelines.point_store import PointStore

_SMALLEST_GROUP = 32
_LARGEST_GROUP = 512
_SHORT, _LONG = 4.0, 16.0  # seconds of encoding per group: commits come often, sorting by length still pays
_REMOVALS = 256
_CHARACTERS = 8_000_000  # of documents that wait to be committed


class Writer:
    """Brings documents into one collection.

    Args:
        collection: Where to.
        points: Its points.
        encoder: The encoder that fills it.
        chunker: Cuts documents.
        pipeline: As `Survey.pipeline`.
    """

    def __init__(
        self, collection: Collection, points: PointStore, encoder: KVEncoder, chunker: Chunker, pipeline: str
    ) -> None:
        self.tally = Tally()
        self._ledger = collection.ledger
        self._points = points
        self._encoder = encoder
        self._chunker = chunker
        self._pipeline = pipeline
        self._run = replace(self._ledger.run(), started_at=now(), finished_at="", tokens=0, encode_seconds=0.0)
        self._open = False
        self._pending: list[Pending] = []
        self._moved: dict[str, dict[str, JSON]] = {}
        self._drafts: list[Draft] = []
        self._group = _SMALLEST_GROUP
        self._through = 0

    def recover(self) -> None:
        """Undo what a run that was cut short left of documents it never committed."""
        interrupted = self._run.in_flight
        for ids in batches(interrupted, _REMOVALS):
            entries = self._ledger.get(ids)
            kept = {point_id for entry in entries.values() for point_id in entry.point_ids}
            self._points.delete(sorted(self._points.of_documents(ids) - kept))
            self._ledger.put([replace(entry, settled=False) for entry in entries.values()])
        if interrupted:
            self._mark(())

    def write(self, batch: Sequence[Document]) -> Iterator[int]:
        """Take documents, in order; they are searchable after `flush` at the latest.

        Yields:
            How many are through with, whenever more are.
        """
        through = self._through
        before = self._ledger.get([document.id for document in batch])
        for document in batch:
            draft = Draft(document, document.content_hash, before.get(document.id))
            self._drafts.append(draft)
            self._cut(draft)
            draft.complete = True
            if len(self._drafts) >= _LARGEST_GROUP or self._characters() >= _CHARACTERS:
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
            if not self._open:
                self._mark(())
            self._ledger.put([replace(entry, generation=self._run.generation) for entry in entries])

    def remove(self, document_ids: Iterable[str]) -> Iterator[int]:
        """Forget documents and delete their points, a batch at a time; yields how many went."""
        self._flush()
        for batch in batches(document_ids, _REMOVALS):
            started = perf_counter()
            entries = self._ledger.get(batch)
            self._mark(tuple(batch))
            self._ledger.remove(batch)
            doomed = [point_id for entry in entries.values() for point_id in entry.point_ids]
            self._points.delete(doomed)
            self.tally.points_deleted += len(doomed)
            self.tally.deleted += sum(entry.committed for entry in entries.values())
            self.tally.seconds["write"] += perf_counter() - started
            yield len(batch)

    def flush(self) -> Iterator[int]:
        """Write what waits; yields as `write` does."""
        self._flush()
        yield self._through

    def finish(self) -> None:
        """Write what waits, and close the run's record, if anything was written at all."""
        self._flush()
        if self._open:
            seconds = round(self.tally.seconds["embed"], 3)
            self._run = replace(
                self._run, in_flight=(), finished_at=now(), tokens=self.tally.tokens, encode_seconds=seconds
            )
            self._ledger.put_run(self._run)

    def _cut(self, draft: Draft) -> None:
        """Cut a document and queue its chunks; those whose text was embedded before keep their vectors."""
        occurrences = Occurrences()
        old = frozenset(draft.old_ids)
        for chunks in batches(self._chunks(draft), _LARGEST_GROUP):
            named = [(chunk, occurrences.point_id(chunk)) for chunk in chunks]
            draft.point_ids.extend(point_id for _, point_id in named)
            stored = self._points.payloads([point_id for _, point_id in named if point_id in old])
            for chunk, point_id in named:
                if point_id in stored:
                    self._reuse(draft, chunk, point_id, stored[point_id])
                else:
                    self._pending.append(Pending(draft, chunk, point_id))
                    draft.waiting += 1
                if len(self._pending) >= self._group:
                    self._flush()
                if draft.failure is not None:
                    return

    def _chunks(self, draft: Draft) -> Iterator[Chunk]:
        """Cut a document; one that cannot be cut fails by itself."""
        chunks = iter(self._chunker.chunks(draft.document))
        while True:
            started = perf_counter()
            try:
                chunk = next(chunks, None)
            except CHUNKING_FAILURES as error:
                self._fail(draft, "chunk", reason_of(error))
                return
            self.tally.seconds["chunk"] += perf_counter() - started
            if chunk is None:
                return
            yield chunk

    def _reuse(self, draft: Draft, chunk: Chunk, point_id: str, stored: Mapping[str, JSON]) -> None:
        metadata = cast("Mapping[str, JSON]", stored.get(METADATA_KEY) or {})
        cut = int(cast("float", metadata.get("truncated_tokens", 0)))
        draft.count_cut(cut)
        draft.reused += 1
        fresh = payload(draft.document, chunk, truncated_tokens=cut)
        draft.digests[chunk.index] = payload_digest(fresh)
        if fresh != stored:
            self._moved[point_id] = fresh

    def _flush(self) -> None:
        """Encode what waits, write it, and commit every document that is complete with it."""
        points = self._encode()
        if not self._drafts:
            return
        started = perf_counter()
        self._mark(tuple(draft.document.id for draft in self._drafts))
        self._points.upsert(points)
        self._points.overwrite_payloads(self._moved)
        self.tally.points_written += len(points)
        self.tally.points_updated += len(self._moved)
        self._moved = {}
        self._commit()
        self.tally.seconds["write"] += perf_counter() - started

    def _commit(self) -> None:
        failed = [draft for draft in self._drafts if draft.failure is not None]
        done = [draft for draft in self._drafts if draft.complete and not draft.waiting and draft.failure is None]
        self._ledger.put([self._entry(draft) for draft in done] + [self._setback(draft) for draft in failed])
        stale = sorted(point_id for draft in done for point_id in set(draft.old_ids) - set(draft.point_ids))
        self._points.delete(stale)
        self._points.delete(
            sorted(point_id for draft in failed for point_id in set(draft.point_ids) - set(draft.old_ids))
        )
        self.tally.points_deleted += len(stale)
        for draft in done:
            self._count(draft)
        self._through += len(done) + len(failed)
        settled = {id(draft) for draft in (*done, *failed)}
        self._drafts = [draft for draft in self._drafts if id(draft) not in settled]

    def _characters(self) -> int:
        return sum(len(draft.document.text) for draft in self._drafts)

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
        self.tally.quarantined.append(still_quarantined(draft.document.id, draft.document.source, draft.failure))
        self._pending = [item for item in self._pending if item.draft is not draft]
        draft.waiting = 0
        for point_id in draft.point_ids:
            self._moved.pop(point_id, None)

    def _entry(self, draft: Draft) -> LedgerEntry:
        return LedgerEntry(
            document_id=draft.document.id,
            source=draft.document.source,
            content_hash=draft.content_hash,
            text_hash=text_hash(draft.document.text),
            point_ids=tuple(draft.point_ids),
            payload_hash=payload_hash(draft.digests[index] for index in range(len(draft.point_ids))),
            generation=self._run.generation,
            truncated_chunks=draft.truncated_chunks,
            truncated_tokens=draft.truncated_tokens,
        )

    def _setback(self, draft: Draft) -> LedgerEntry:
        before = draft.before or LedgerEntry(draft.document.id, draft.document.source)
        return replace(before, quarantine=draft.failure, generation=self._run.generation)

    def _count(self, draft: Draft) -> None:
        known = draft.before is not None and draft.before.committed
        self.tally.changed += known
        self.tally.added += not known
        self.tally.empty += not draft.point_ids
        self.tally.chunks_reused += draft.reused
        self.tally.truncated_chunks += draft.truncated_chunks
        self.tally.truncated_tokens += draft.truncated_tokens

    def _mark(self, in_flight: tuple[str, ...]) -> None:
        """Say what is being written; the first mark opens the run."""
        generation = self._run.generation + (not self._open)
        self._run = replace(self._run, generation=generation, in_flight=in_flight)
        self._ledger.put_run(self._run)
        self._open = True


def _next_group(size: int, seconds: float) -> int:
    """Aim at groups that take a few seconds, whatever the model: a kill then costs no more than that."""
    if seconds < _SHORT:
        return min(size * 2, _LARGEST_GROUP)
    return max(size // 2, _SMALLEST_GROUP) if seconds > _LONG else size
