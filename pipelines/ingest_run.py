"""One run: the comparison of source and ledger, and the writing of what it decides."""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

from pipelines.adoption import adopt_in_place, update_storage
from pipelines.chunking import CHUNKING_FAILURES, Chunker
from pipelines.collection import complete_collection, make_collection, point_alias
from pipelines.cost import Cost, runs_as_fast
from pipelines.damage import damaged_documents
from pipelines.drafts import Tally
from pipelines.executors.inline import InlineExecutor
from pipelines.generations import announce, check_gone
from pipelines.known import KnownDocuments
from pipelines.layer_choice import ChunkSample, resolve_layers
from pipelines.model_registry import remember_model
from pipelines.planning import Survey
from pipelines.point_store import PointStore
from pipelines.report import IngestPlan, IngestReport, Progress
from pipelines.shards import ShardCutter, ShardPlan
from pipelines.storage import StorageConfig
from pipelines.target import Target, choose_target
from pipelines.transform_choice import fitted_encoder, is_resolved
from pipelines.writing import WritingPass

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.documents import Document
    from pipelines.errors import JSON
    from pipelines.executors import Executor
    from pipelines.lease_holder import Ticket
    from pipelines.options import IngestOptions
    from pipelines.run_records import RunRecord
    from pipelines.sources import Source
    from pipelines.store import Store

_EMBEDDED_LIMIT = 20_000
_ADVICE = (
    "{count} points in an embedded store, which holds all of them in memory and compares a query with each; "
    "above 20,000 a Qdrant server is the better place (docker compose up -d qdrant, --store http://localhost:6333)"
)
_READ = 32  # documents handed to the writer at a time


@dataclass(slots=True)
class IngestRun:
    """State of one run; `survey` comes first, then `prepare` and `write`.

    `asked` is the chunking the caller named; None takes the collection's own, or the default for a new one.
    """

    store: Store
    source: Source
    name: str
    given: KVEncoder
    asked: ChunkingConfig | None
    options: IngestOptions
    progress: Progress
    target: Target = field(init=False)
    found: Survey = field(default_factory=lambda: Survey("", None))
    seen: tuple[object, ...] = ()
    """State of the store when the comparison was made; while it stays, the comparison holds."""
    sample: ChunkSample | None = None
    tally: Tally = field(default_factory=Tally)
    executor: Executor = field(default_factory=InlineExecutor)
    """Embeds and writes what is new."""
    ticket: Ticket | None = None
    """Of the lease, by which other processes of the run may write."""
    shards: ShardPlan = field(default_factory=ShardPlan)
    """Of the last comparison."""
    wanted: Set[str] = frozenset()
    """Documents that were to be written, in any pass."""
    broken: set[str] = field(default_factory=set)
    """Documents that a comparison called unchanged and that could not be read any more a moment later."""
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def survey(self, *, count: bool = False) -> IngestPlan:
        """Compare the source with the ledger; with `count`, cut what is new to see how much there is to embed."""
        started = perf_counter()
        self.target = choose_target(self.store, self.name, self.given, self.asked, self.options)
        self.seen = self.state()
        resolved = is_resolved(self.target.encoder)
        self.found = self._comparison(self.target.pipeline if resolved else "")
        self.sample = None if resolved or count else ChunkSample()
        cost = Cost() if count else None
        self._compare(self._look(cost) if self._cuts(cost) else None)
        self.seconds["plan"] = self.seconds.get("plan", 0.0) + perf_counter() - started
        planned = self._planned()
        return cost.added_to(planned, self._measured_run()) if cost is not None else planned

    def _cuts(self, cost: Cost | None) -> bool:
        """Tell whether the comparison needs a chunker; one that cannot cut is refused before anything is made."""
        filled = self.target.live is not None and self.target.live is self.target.collection
        return cost is not None or self.sample is not None or not filled

    def _look(self, cost: Cost | None) -> Callable[[Document, bool], None]:
        chunker = self.chunker()

        def look(document: Document, wanted: bool) -> None:
            with suppress(*CHUNKING_FAILURES):  # the writer meets it again, and quarantines the document
                if self.sample is not None:
                    self.sample.add(chunker.chunks(document))
                elif cost is not None and wanted:
                    points = PointStore(self.store, self.target.made.physical) if self.found.ledger else None
                    cost.add(document, chunker, self.target.encoder, points, self.found.entry(document.id))

        return look

    def state(self) -> tuple[object, ...]:
        """Return what changes when anybody writes to the name."""
        live, written = self.target.live, self.target.collection
        return (
            live.physical if live else None,
            written.physical if written else None,
            self.target.replaces,
            self._last_run(),
            live.ledger.run() if live and self.target.replaces else None,
        )

    def is_current(self) -> bool:
        """Tell whether the comparison still holds, now that nobody else writes."""
        self.target = choose_target(self.store, self.name, self.given, self.asked, self.options)
        return self.seen == self.state()

    def changes_nothing(self, planned: IngestPlan) -> bool:
        """Tell whether there is nothing at all to write, so that no lease is needed either."""
        live, storage = self.target.live, self.options.storage
        if live is None or live is not self.target.collection or not planned.changes_nothing:
            return False
        if storage is not None and storage.to_dict() != dict(live.manifest.storage):
            return False
        forgotten = self.found.gone.forgotten and not self.found.keeps(self.options.delete)
        return not (self.found.fresh_rejections or forgotten or self.found.in_flight)

    def prepare(self) -> None:
        """Make what is to be written to, and let the name stand for it, unless it stands for something else."""
        profile = self._resolve(self.sample.texts if self.sample is not None else [])
        target, storage = self.target, self._storage()
        if target.in_place:
            made = adopt_in_place(self.store, self.name, target.encoder, target.chunking, storage)
        elif target.collection is None or target.collection is not target.live:
            made = make_collection(self.store, self.name, target.encoder, target.chunking, profile, storage)
            if target.replaces is None:
                point_alias(self.store, self.name, made.physical, None)
            else:
                announce(self.store, self.name, made.physical, target.replaces)
        else:
            made = update_storage(self.store, target.collection, storage)
            if not made.ledger.exists():  # adopting it was cut short
                complete_collection(self.store, made)
        self.target = replace(target, collection=made)
        remember_model(target.encoder.config)  # before the work: a run that is cut short is continued without --model

    def begin(self, planned: IngestPlan) -> WritingPass:
        """Begin to do what the plan says to the collection that is written."""
        return WritingPass(self, planned, _READ)

    def write(self, planned: IngestPlan) -> None:
        """Do all that the plan says."""
        writing = self.begin(planned)
        for group in writing.groups(1):
            writing.embed(group)
        writing.finish()

    def chunker(self) -> Chunker:
        """Return what cuts documents for the collection that is written."""
        return Chunker(self.target.chunking, self.target.encoder)

    def catch_up(self) -> IngestPlan:
        """Compare the source once more with what was written."""
        started = perf_counter()
        self.sample = None
        self.tally.rejected += len(self.tally.quarantined)  # the comparison finds those again that are still so
        self.tally.quarantined.clear()
        self.found = self._comparison(self.target.pipeline)
        self._compare(None)
        self.seconds["plan"] += perf_counter() - started
        return self._planned()

    def report(self, planned: IngestPlan, *, replaced: str | None = None) -> IngestReport:
        """Say what was done.

        Args:
            planned: The last comparison that was carried out.
            replaced: What the name stood for before, when it stands for a new generation now.
        """
        tally, made = self.tally, self.target.made
        count = PointStore(self.store, made.physical).count() if self.store.embedded and tally.points_written else 0
        advice = [_ADVICE.format(count=count)] if count > _EMBEDDED_LIMIT else []
        quarantined = tally.quarantined_beside(planned.quarantined)
        return IngestReport(
            collection=self.name,
            physical=made.physical,
            source=self.source.description,
            documents_added=tally.added,
            documents_changed=tally.changed,
            documents_moved=tally.moved,
            documents_unchanged=planned.unchanged - len(self.broken),
            documents_deleted=tally.deleted if replaced is None else len(planned.deleted),
            documents_quarantined=len(quarantined),
            documents_empty=tally.empty,
            quarantined=quarantined,
            chunks_embedded=tally.chunks_embedded,
            chunks_reused=tally.chunks_reused,
            points_written=tally.points_written,
            points_updated=tally.points_updated,
            points_deleted=tally.points_deleted,
            tokens=tally.tokens,
            truncated_chunks=tally.truncated_chunks,
            truncated_tokens=tally.truncated_tokens,
            layers=made.manifest.layers,
            fingerprint=made.manifest.fingerprint,
            rebuilt=replaced is not None,
            replaced=replaced,
            warnings=(*self.warnings, *self.found.spared(self.options.delete), *advice),
            seconds={stage: round(spent, 3) for stage, spent in (self.seconds | tally.seconds).items()},
        )

    def _compare(self, look: Callable[[Document, bool], None] | None) -> None:
        """Compare, and cut what is to be written into shards."""
        last, chunk_tokens = self._measured_run(), self.target.chunking.max_tokens
        rate = last.tokens / last.encode_seconds / chunk_tokens if last and last.encode_seconds else None
        cutter = ShardCutter(chunk_tokens, rate)

        def note(document: Document, wanted: bool) -> None:
            if wanted:
                cutter.note(document)
            if look is not None:
                look(document, wanted)

        self.found.run(self.source, self.progress, note)
        self.shards = cutter.plan()

    def _comparison(self, pipeline: str) -> Survey:
        """Gather what the store already says of the documents."""
        written, retry = self.target.collection, self.options.retry_quarantined
        last = self._last_run()
        if written is None or last is None:
            return Survey(pipeline, None, retry=retry, texts=self.target.live is not None)
        known = KnownDocuments(written.ledger.scan())
        if in_flight := frozenset(last.in_flight):
            return Survey(pipeline, written.ledger, in_flight, retry=retry, documents=known)
        points = PointStore(self.store, written.physical)
        damaged = damaged_documents(written.ledger, points, known.points)
        return Survey(pipeline, written.ledger, damaged=damaged, retry=retry, documents=known)

    def _last_run(self) -> RunRecord | None:
        """Return the record of the last run into the collection that is written, if it has a ledger by now."""
        written = self.target.collection
        return written.ledger.run() if written is not None and written.ledger.exists() else None

    def _measured_run(self) -> RunRecord | None:
        """Return the last run whose speed says something of this one: a new generation of the same model is as fast."""
        last, live = self._last_run(), self.target.live
        if (last and last.tokens) or live is None or live is self.target.collection:
            return last
        return live.ledger.run() if runs_as_fast(live.manifest, self.target.encoder) else None

    def _planned(self) -> IngestPlan:
        target = self.target
        gone = self.found.gone
        if target.live is not None and target.live is not target.collection:
            gone = self.found.gone_from(target.live.ledger)
            check_gone(self.name, self.found, gone, self.options.delete)
        return self.found.plan(self.name, self.source.description, self.options.delete, gone, target.changes)

    def _storage(self) -> StorageConfig:
        """Return how vectors are to be kept: as asked, else as in the live collection."""
        live = self.target.live
        return self.options.storage or StorageConfig.from_dict(live.manifest.storage if live else {})

    def _resolve(self, texts: list[str]) -> dict[str, JSON] | None:
        """Choose layers and fit the transform, where that is yet to be done; returns the layers' profile."""
        started, encoder, profile = perf_counter(), self.target.encoder, None
        if encoder.config.layers == "auto":
            self.progress("select_layers", 0, None)
            encoder, profile, warning = resolve_layers(encoder, texts)
            self.warnings += [warning] if warning else []
            self.seconds["select_layers"] = perf_counter() - started
        if self.target.collection is None:
            encoder = fitted_encoder(encoder, texts, self.progress, self.seconds)
        self.target = replace(self.target, encoder=encoder)
        self.found.pipeline = self.target.pipeline
        return profile
