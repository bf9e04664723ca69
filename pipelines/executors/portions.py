"""What a worker takes at a time, and how it goes on where another process ended in the middle of it.

A process that ends leaves a mark in the ledger: how often the portion was begun, and what was in flight. Whoever takes
it next undoes what is half written and leaves alone what was committed. After two ends the documents are embedded one
by one, each named before; one that ends a process twice by itself is quarantined. Nothing but the ledger needs to know,
so it makes no difference who starts the portion again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipelines.chunking import Chunker
from pipelines.drafts import Tally
from pipelines.encoding import HARMLESS
from pipelines.errors import TerminalError
from pipelines.ledger import LedgerEntry, Quarantine
from pipelines.planning import still_quarantined
from pipelines.recovery import settled_by
from pipelines.run_records import Mark
from pipelines.writer import Writer

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.documents import Document
    from pipelines.drafts import Draft
    from pipelines.lease_holder import Ticket
    from pipelines.ledger import Ledger
    from pipelines.point_store import PointStore

_TOGETHER = 2
"""Processes that may end in a portion before its documents are embedded one by one."""
_ALONE = 2
"""Processes that may end in one document alone before it is quarantined."""
_PROBES = 3
"""Processes that may end in a harmless text before the run ends."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Some documents of a shard.

    Attributes:
        key: Names it in its run.
        documents: In order.
        donors: New id -> old id, of those whose text is the same under another id.
        known: Ids of those that had a searchable form before the run.
    """

    key: str
    documents: tuple[Document, ...]
    donors: Mapping[str, str]
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker has to know of a pass.

    Attributes:
        run: Its number.
        name: Collection.
        physical: The one that is written.
        pipeline: As `Survey.pipeline`.
        chunking: Cuts the documents.
        address: URL of a server that the worker writes to by itself; None where its parent writes.
        ticket: Of the lease.
    """

    run: int
    name: str
    physical: str
    pipeline: str
    chunking: ChunkingConfig
    address: str | None = None
    ticket: Ticket | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """Documents that are through.

    Attributes:
        documents: Their ids.
        followed: Of those with a donor, the ones that are searchable under their new id.
        tally: What was counted since the last such message.
    """

    documents: tuple[str, ...]
    followed: frozenset[str] = frozenset()
    tally: Tally = field(default_factory=Tally)


class PortionMarks:
    """Marks of a worker, one portion at a time.

    Args:
        ledger: Of the collection that is written.
        run: Its number.
    """

    def __init__(self, ledger: Ledger, run: int) -> None:
        self._ledger = ledger
        self.run = run
        self.current = Mark("", run)

    def open(self) -> None:
        """The run is open."""

    def mark(self, in_flight: tuple[str, ...]) -> None:
        """Say what is being written from now on."""
        self.put(in_flight=in_flight)

    def begin(self, key: str) -> bool:
        """Begin a portion; tells whether it was begun before."""
        before = self._ledger.mark(key)
        again = before is not None and before.generation == self.run
        self.current = before if before is not None and again else Mark(key, self.run, begun=0)
        self.put(begun=self.current.begun + 1)
        return again

    def put(self, **changes: object) -> None:
        """Change fields of the mark."""
        self.current = replace(self.current, **changes)  # type: ignore[arg-type]
        self._ledger.put_mark(self.current)

    def end(self) -> None:
        """The portion is through."""
        self._ledger.drop_marks([self.current.key])


class PortionWriter:
    """Embeds portions and commits their documents.

    Args:
        work: What they have in common.
        ledger: Of the collection.
        points: Of the collection.
        encoder: Fills it.
        report: Told what is through.
    """

    def __init__(
        self,
        work: Work,
        ledger: Ledger,
        points: PointStore,
        encoder: KVEncoder,
        report: Callable[[Settled], None],
    ) -> None:
        self._work = work
        self._ledger = ledger
        self._encoder = encoder
        self._report = report
        self._marks = PortionMarks(ledger, work.run)
        self._donors: dict[str, str] = {}
        self._writer = Writer(
            work.name,
            ledger,
            points,
            encoder,
            lambda: Chunker(work.chunking, encoder),
            work.pipeline,
            self._marks,
            donors=self._donors,
        )
        self._writer.settled = self._settled

    def embed(self, portion: Portion) -> None:
        """Embed and commit the documents of a portion.

        Raises:
            TerminalError: processes end whatever is embedded.
            Exception: what ended the run.
        """
        self._donors.clear()
        self._donors.update(portion.donors)
        if self._marks.begin(portion.key):
            self._embed_again(portion)
        else:
            self._embed(portion.documents)
        self._marks.end()

    def _embed(self, documents: Sequence[Document]) -> None:
        for _ in self._writer.write(documents):
            pass
        for _ in self._writer.flush():
            pass

    def _embed_again(self, portion: Portion) -> None:
        self._writer.recover(self._marks.current.in_flight)
        through = settled_by(self._work.run, portion.documents, self._ledger)
        if through:
            self._report(_found_settled(portion, self._ledger.get(through)))
        left = [document for document in portion.documents if document.id not in through]
        if self._marks.current.begun <= _TOGETHER:
            self._embed(left)
        else:
            self._embed_one_by_one(left)

    def _embed_one_by_one(self, documents: Iterable[Document]) -> None:
        self._probe()
        last, begun = self._marks.current.alone, self._marks.current.alone_begun
        for document in documents:
            times = begun if document.id == last else 0
            if times >= _ALONE:
                self._quarantine(document)
                continue
            self._marks.put(alone=document.id, alone_begun=times + 1)
            self._embed([document])

    def _probe(self) -> None:
        """Make sure that it is not the machine which ends processes."""
        probed = self._marks.current.probed
        if probed >= _PROBES:
            raise TerminalError(
                f"{probed} processes ended while they embedded the word {HARMLESS.text!r}: no document is at fault; "
                "look for what ended them, such as memory that ran out, in what they wrote to stderr and in the "
                "system's log; what was committed stays"
            )
        self._marks.put(probed=probed + 1)
        self._encoder.encode_counted([HARMLESS.embedded_text], "document")
        self._marks.put(probed=0)

    def _quarantine(self, document: Document) -> None:
        ends = self._marks.current.begun - 1
        reason = f"the processes that embedded it ended, {ends} times with others or alone, {_ALONE} times alone"
        why = Quarantine(document.content_hash, "embed", reason, self._work.pipeline)
        self._writer.quarantine([(document.id, document.source, why)])
        self._writer.tally.fail(still_quarantined(document.id, document.source, why))
        self._report(Settled((document.id,), tally=self._writer.tally.taken()))

    def _settled(self, drafts: Sequence[Draft]) -> None:
        ids = tuple(draft.document.id for draft in drafts)
        if ids:
            followed = frozenset(self._writer.committed)
            self._writer.committed.clear()
            self._report(Settled(ids, followed, self._writer.tally.taken()))


def _found_settled(portion: Portion, entries: Mapping[str, LedgerEntry]) -> Settled:
    """Count what a process committed and could not report any more, as well as the ledger tells."""
    tally = Tally()
    for entry in entries.values():
        if entry.quarantine is not None:
            tally.quarantined.append(still_quarantined(entry.document_id, entry.source, entry.quarantine))
            continue
        moved = entry.document_id in portion.donors
        known = entry.document_id in portion.known
        tally.changed += known
        tally.moved += moved
        tally.added += not known and not moved
        tally.empty += not entry.point_ids
        tally.truncated_chunks += entry.truncated_chunks
        tally.truncated_tokens += entry.truncated_tokens
        if not known and not moved:
            tally.chunks_embedded += len(entry.point_ids)
            tally.points_written += len(entry.point_ids)
    followed = frozenset(one for one, entry in entries.items() if one in portion.donors and entry.quarantine is None)
    return Settled(tuple(entries), followed, tally)
