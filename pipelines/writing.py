"""One pass over a source that writes what a comparison decided: begun, embedded shard by shard, finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from pipelines.executors import ShardJob
from pipelines.marks import RunMarks
from pipelines.planning import quarantine_of, text_batches
from pipelines.point_store import PointStore
from pipelines.recovery import settled_by
from pipelines.rereading import Rereading
from pipelines.writer import Writer

if TYPE_CHECKING:
    from pipelines.documents import Document
    from pipelines.ingest_run import IngestRun
    from pipelines.report import IngestPlan
    from pipelines.shards import ShardGroup, ShardPlan


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What was done with a group of shards.

    Attributes:
        group: Which.
        documents: That are through: committed or quarantined.
        chunks: That were embedded.
        tokens: That went through the model.
        quarantined: Documents that failed.
        seconds: From the first document read to the last one committed.
    """

    group: ShardGroup
    documents: int
    chunks: int
    tokens: int
    quarantined: int
    seconds: float


class WritingPass:
    """Writes one plan.

    Args:
        run: Has compared, and has made what is written to.
        planned: What it found.
        read: Documents handed to a writer at a time.
    """

    def __init__(self, run: IngestRun, planned: IngestPlan, read: int) -> None:
        found = run.found
        self._run = run
        self._shards: ShardPlan = run.shards
        self._donors = {new: old for old, new in planned.moved}
        self._marks = RunMarks(run.target.made.ledger)
        self._writer = self._made_writer()
        self._job = self._made_job(read)
        removes = run.target.replaces is not None or not found.keeps(run.options.delete)
        self._doomed = found.gone.doomed if removes else []
        self._forgotten = found.gone.forgotten if removes else []
        self._through = 0
        self._back: set[str] = set()
        self._reading: Iterator[Document] | None = None
        self._again: Rereading | None = None
        self._held: Document | None = None
        self._skipped = 0
        self._embedded = 0  # shards
        self._broke_off = False
        self._begin()

    def groups(self, most: int) -> list[ShardGroup]:
        """Put what is to be embedded into groups of shards, `most` at most."""
        return self._shards.groups(most, self._job.pipeline)

    def embed(self, group: ShardGroup) -> GroupReport:
        """Embed and commit the documents of a group; where that failed, it may be tried again."""
        started, tally, before = perf_counter(), self._writer.tally, self._through
        chunks, tokens, failed = tally.chunks_embedded, tally.tokens, len(tally.quarantined)
        documents, job = self._due(group), replace(self._job, chunks=group.chunks)
        if self._reading is None:
            documents = self._begun_again(group, documents)
        done = False
        try:
            for through in self._run.executor.embed_shards(job, documents):
                self._through = before + through
                self._run.progress("embed", self._through, len(self._shards.of))
            done = True
        finally:
            if not done:
                self._reading = self._held = None
                self._broke_off = True
        self._embedded = max(self._embedded, group.last + 1)
        return GroupReport(
            group,
            self._through - before,
            tally.chunks_embedded - chunks,
            tally.tokens - tokens,
            len(tally.quarantined) - failed,
            round(perf_counter() - started, 3),
        )

    def finish(self) -> None:
        """Delete what left the source, and close the run's record.

        Raises:
            RuntimeError: a group was not embedded.
        """
        if self._embedded < len(self._shards.shards):
            raise RuntimeError(f"of {len(self._shards.shards)} shards {self._embedded} were embedded; run all groups")
        self._read_to_the_end()
        run, writer, made = self._run, self._writer, self._run.target.made
        followed = [old for new, old in self._donors.items() if new in writer.committed and old not in self._back]
        # A form that a kill left half written, of a document that is broken by now: it can take nobody's place.
        halves = [one.document_id for one in made.ledger.scan() if run.target.replaces and not one.settled]
        for _ in writer.remove(followed + halves, moved=True):
            pass
        gone, going = 0, [one for one in self._doomed if one not in self._back] + self._forgotten
        for batch in writer.remove(going):
            gone += batch
            run.progress("delete", gone, len(going))
        self._marks.close(writer.tally.tokens, writer.tally.seconds["embed"])

    def _made_writer(self) -> Writer:
        run, target = self._run, self._run.target
        return Writer(
            target.made.name,
            target.made.ledger,
            PointStore(run.store, target.made.physical),
            target.encoder,
            run.chunker,
            run.found.pipeline,
            self._marks,
            donors=self._donors,
            allowed=run.options.max_quarantined,
            tally=run.tally,
        )

    def _made_job(self, read: int) -> ShardJob:
        run, target = self._run, self._run.target
        return ShardJob(
            store=run.store,
            collection=target.made,
            encoder=target.encoder,
            chunking=target.chunking,
            pipeline=run.found.pipeline,
            writer=self._writer,
            marks=self._marks,
            donors=self._donors,
            was_committed=run.found.documents.was_committed,
            chunks=0,
            read=read,
            ticket=run.ticket,
        )

    def _begin(self) -> None:
        found, writer = self._run.found, self._writer
        writer.recover(self._marks.left_over)
        self._marks.recovered()
        writer.tally.reject(found.fresh_rejections)
        writer.quarantine((one.id, one.source, quarantine_of(one, found.pipeline)) for one in found.fresh_rejections)
        if self._shards.of:
            self._run.wanted = self._run.wanted | self._shards.of.keys() if self._run.wanted else self._shards.of.keys()
            self._run.progress("embed", 0, len(self._shards.of))

    def _documents(self) -> Iterator[Document]:
        """Read the source again, to its end."""
        watched = frozenset((*self._doomed, *self._donors.values()))
        again = self._again = Rereading(self._run.source, self._run.found, self._run.wanted, watched)
        try:
            yield from again.documents(self._writer)
        finally:
            self._run.seconds["parse"] = self._run.seconds.get("parse", 0.0) + again.seconds
            self._run.broken |= again.broken
            self._back |= again.back

    def _begun_again(self, group: ShardGroup, documents: Iterator[Document]) -> Iterator[Document]:
        """Read the source from its start, up to a group; what broke off in it is undone or found to be through."""
        self._skipped, self._reading = group.first, self._documents()
        if not self._broke_off:
            return documents
        self._broke_off = False
        self._writer.forget()
        ledger = self._job.collection.ledger
        self._writer.recover(ledger.run().in_flight)
        ledger.drop_marks()
        return self._not_settled(documents)

    def _not_settled(self, documents: Iterator[Document]) -> Iterator[Document]:
        for batch in text_batches(documents, self._job.read):
            settled = settled_by(self._marks.run, batch, self._job.collection.ledger)
            yield from (document for document in batch if document.id not in settled)

    def _due(self, group: ShardGroup) -> Iterator[Document]:
        """Yield the documents of a group; the first of a later one waits for its turn."""
        shard_of = self._shards.of
        while (document := self._next()) is not None:
            shard = shard_of.get(document.id, -1)
            if shard > group.last:
                self._held = document
                return
            if shard >= self._skipped:
                yield document

    def _next(self) -> Document | None:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        return next(self._reading, None) if self._reading is not None else None

    def _read_to_the_end(self) -> None:
        """Look at what is behind the last group, where documents may be that seemed to be gone."""
        if self._reading is not None:
            for _ in self._reading:
                pass
