"""A source into a collection: plan, then write what the plan says, then report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias, get_args

from pipelines.chunking import Chunker, ChunkingConfig
from pipelines.collection import adopt_layers, check_same, find_collection, make_collection
from pipelines.documents import Document, RejectedDocument
from pipelines.errors import CollectionNotFoundError
from pipelines.layer_choice import ChunkSample, resolve_layers
from pipelines.manifest import pipeline_hash
from pipelines.model_registry import remember_model
from pipelines.physical import check_name
from pipelines.planning import (
    Delete,
    DeletionGuard,
    Survey,
    check_deletions,
    first_sighting,
    quarantine_of,
)
from pipelines.point_store import PointStore
from pipelines.report import IngestPlan, IngestReport, Progress, QuarantinedDocument
from pipelines.sources import open_source
from pipelines.store import batches, open_store
from pipelines.writer import Writer

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.collection import Collection
    from pipelines.sources import Source
    from pipelines.store import Store, StoreLike

SourceLike: TypeAlias = "str | Path | Source | Iterable[Document]"

_READ = 32  # documents handed to the writer at a time


def ingest(
    source: SourceLike,
    store: StoreLike | None,
    name: str,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    delete: Delete = "guarded",
    guard: DeletionGuard | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Bring a collection in line with a source.

    The source is read twice: once to see what changed, which is refused as a whole before anything is written if
    too much would be deleted; then once more, when there is something to write. Every document is committed by
    itself: its new points are written, then its ledger entry, then its old points are deleted. A run that ends
    early leaves what it committed, and the next one continues.

    Args:
        source: Folder, file, `.jsonl`, `.parquet`, `hf:NAME[:CONFIG][:SPLIT]`, a `Source`, or documents.
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection; made when there is none.
        encoder: Fills the collection. Layers "auto" become those of the collection, or are chosen from the corpus.
        chunking: How documents are cut.
        delete: Documents that are gone from the source: "guarded" refuses when they are many, "all" deletes them,
            "none" keeps them.
        guard: What many is; None takes 20% above 5 documents, and 100 documents.
        progress: Told how far the run is.

    Raises:
        SourceError: nothing can be read there.
        StoreError: the store refuses.
        StoreUnavailableError: the store may answer later.
        EncoderMismatchError: another encoder or chunking filled the collection.
        DeletionGuardError: too much would be deleted; nothing was written.
    """
    with open_store(store) as opened:
        run = _start(opened, source, name, encoder, chunking, delete, progress)
        found = run.survey()
        check_deletions(found, delete, guard or DeletionGuard())
        return run.execute(found)


def plan(
    source: SourceLike,
    store: StoreLike | None,
    name: str,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    delete: Delete = "guarded",
    progress: Progress | None = None,
) -> IngestPlan:
    """Tell what `ingest` would do with the same arguments, and write nothing.

    Takes and raises what `ingest` does, but for the deletion guard: the plan says how many would go.
    """
    with open_store(store) as opened:
        run = _start(opened, source, name, encoder, chunking, delete, progress)
        return run.survey(count=True)


def pipeline_version(fingerprint: str, chunking: ChunkingConfig) -> str:
    """Hash what decides whether a quarantined document is tried again: the pipeline and this package's version."""
    parts = f"{pipeline_hash(fingerprint, chunking.to_dict())} {version('kvembed')}"
    return hashlib.sha256(parts.encode("ascii")).hexdigest()


@dataclass(slots=True)
class _Run:
    store: Store
    source: Source
    name: str
    encoder: KVEncoder
    chunking: ChunkingConfig
    delete: Delete
    progress: Progress
    collection: Collection | None = None
    found: Survey = field(default_factory=lambda: Survey("", None))
    sample: ChunkSample | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    chunks: int = 0
    tokens: int = 0

    @property
    def made(self) -> Collection:
        """The collection, once it exists."""
        if self.collection is None:
            raise CollectionNotFoundError(self.name)
        return self.collection

    @property
    def rejected(self) -> set[str]:
        """Documents that the plan found unfit."""
        return {found.document_id for found in self.found.quarantined}

    def survey(self, *, count: bool = False) -> IngestPlan:
        """Compare the source with the ledger; with `count`, cut what is new to see how much there is to embed."""
        started = perf_counter()
        self.collection = find_collection(self.store, self.name)
        if self.collection is not None:
            self.encoder = adopt_layers(self.encoder, self.collection.manifest)
            check_same(self.collection, self.encoder.config, self.chunking)
        resolved = self.encoder.config.layers != "auto"
        ledger = self.collection.ledger if self.collection else None
        self.found = Survey(
            pipeline_version(self.encoder.fingerprint, self.chunking) if resolved else "",
            ledger,
            frozenset(ledger.run().in_flight) if ledger else frozenset(),
        )
        self.sample = None if resolved or count else ChunkSample()
        chunker = Chunker(self.chunking, self.encoder)

        def look(document: Document, wanted: bool) -> None:
            if self.sample is not None:
                self.sample.add(chunker.chunks(document))
            elif count and wanted:
                self._count(chunker, document)

        self.found.run(self.source, self.progress, look)
        self.seconds["plan"] = perf_counter() - started
        made = self.found.plan(self.name, self.source.description, self.delete)
        return self._with_cost(made) if count else made

    def execute(self, planned: IngestPlan) -> IngestReport:
        """Do what the plan says."""
        warnings = []
        if self.collection is None:
            warnings += self._make()
        collection = self.made
        points = PointStore(self.store, collection.physical)
        chunker = Chunker(self.chunking, self.encoder)
        writer = Writer(collection, points, self.encoder, chunker, self.found.pipeline)
        writer.recover()
        writer.quarantine(
            (found.id, found.source, quarantine_of(found, self.found.pipeline)) for found in self.found.fresh_rejections
        )
        back = self._write(writer, planned) if planned.added or planned.changed else set()
        doomed = [document_id for document_id in planned.deleted if document_id not in back]
        doomed += self.found.forgotten if self.delete != "none" else []
        gone = 0
        for batch in writer.remove(doomed):
            gone += batch
            self.progress("delete", gone, len(doomed))
        writer.finish()
        return self._report(planned, writer, warnings)

    def _make(self) -> list[str]:
        warnings = []
        profile = None
        if self.sample is not None:
            started = perf_counter()
            self.progress("select_layers", 0, None)
            self.encoder, profile, warning = resolve_layers(self.encoder, self.sample.texts)
            warnings += [warning] if warning else []
            self.seconds["select_layers"] = perf_counter() - started
        self.collection = make_collection(self.store, self.name, self.encoder, self.chunking, profile)
        self.found.pipeline = pipeline_version(self.encoder.fingerprint, self.chunking)
        remember_model(self.encoder.config)
        return warnings

    def _write(self, writer: Writer, planned: IngestPlan) -> set[str]:
        """Read the source again and write what was planned; returns the planned deletions that are there after all."""
        wanted = {*planned.added, *planned.changed}
        deleted = set(planned.deleted)
        back: set[str] = set()
        done = 0
        for batch in batches(self._documents(writer, deleted, back), _READ):
            due = [document for document in batch if document.id in wanted]
            if due:
                writer.write(due)
                done += len(due)
                self.progress("embed", done, len(wanted))
        return back

    def _documents(self, writer: Writer, deleted: set[str], back: set[str]) -> Iterator[Document]:
        seen: set[bytes] = set()
        started = perf_counter()
        reading = 0.0
        for found in self.source.documents():
            reading += perf_counter() - started
            if found.id in deleted:
                back.add(found.id)
            if first_sighting(seen, found.id):
                if isinstance(found, RejectedDocument):
                    self._reject(writer, found)
                else:
                    yield found
            started = perf_counter()
        self.seconds["parse"] = reading

    def _reject(self, writer: Writer, found: RejectedDocument) -> None:
        """Note a document that could be read when the plan was made and cannot now."""
        if found.id in self.rejected:
            return
        writer.quarantine([(found.id, found.source, quarantine_of(found, self.found.pipeline))])
        writer.tally.quarantined.append(
            QuarantinedDocument(found.id, found.source, found.content_hash, found.stage, found.reason)
        )

    def _count(self, chunker: Chunker, document: Document) -> None:
        tokenizer = self.encoder.tokenizer
        for chunk in chunker.chunks(document):
            self.chunks += 1
            self.tokens += len(tokenizer.encode(chunk.embedded_text, add_special_tokens=False).ids)

    def _with_cost(self, planned: IngestPlan) -> IngestPlan:
        last = self.collection.ledger.run() if self.collection else None
        speed = last.tokens / last.encode_seconds if last and last.tokens and last.encode_seconds else None
        return replace(
            planned,
            chunks_to_embed=self.chunks,
            tokens_to_embed=self.tokens,
            seconds_to_embed=round(self.tokens / speed, 1) if speed else None,
        )

    def _report(self, planned: IngestPlan, writer: Writer, warnings: list[str]) -> IngestReport:
        tally = writer.tally
        collection = self.made
        quarantined = (*planned.quarantined, *tally.quarantined)
        layers = collection.manifest.layers
        return IngestReport(
            collection=self.name,
            physical=collection.physical,
            source=self.source.description,
            documents_added=tally.added,
            documents_changed=tally.changed,
            documents_unchanged=planned.unchanged,
            documents_deleted=tally.deleted,
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
            layers=layers,
            fingerprint=collection.manifest.fingerprint,
            warnings=tuple(warnings),
            seconds={stage: round(spent, 3) for stage, spent in (self.seconds | tally.seconds).items()},
        )


def _start(
    store: Store,
    source: SourceLike,
    name: str,
    encoder: KVEncoder,
    chunking: ChunkingConfig | None,
    delete: Delete,
    progress: Progress | None,
) -> _Run:
    check_name(name)
    if delete not in get_args(Delete):
        raise ValueError(f"delete is {delete!r}; legal are {', '.join(get_args(Delete))}")
    return _Run(store, open_source(source), name, encoder, chunking or ChunkingConfig(), delete, progress or _silent)


def _silent(stage: str, done: int, total: int | None) -> None:
    """Take no note."""
