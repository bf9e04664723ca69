"""One run: the comparison of source and ledger, what it decides, and the report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING

from pipelines.chunking import CHUNKING_FAILURES, Chunker, ChunkingConfig
from pipelines.collection import adopt_layers, check_same, find_collection, make_collection
from pipelines.damage import damaged_documents
from pipelines.documents import Document, RejectedDocument
from pipelines.errors import CollectionNotFoundError
from pipelines.layer_choice import ChunkSample, resolve_layers
from pipelines.manifest import pipeline_hash
from pipelines.model_registry import remember_model
from pipelines.planning import Delete, Survey, first_sighting, quarantine_of, text_batches
from pipelines.point_store import PointStore
from pipelines.report import IngestPlan, IngestReport, Progress, QuarantinedDocument
from pipelines.writer import Writer

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.collection import Collection
    from pipelines.sources import Source
    from pipelines.store import Store

_EMBEDDED_LIMIT = 20_000
_ADVICE = (
    "{count} points in an embedded store, which holds all of them in memory and compares a query with each; "
    "above 20,000 a Qdrant server is the better place (docker compose up -d, --store http://localhost:6333)"
)
_READ = 32  # documents handed to the writer at a time


def pipeline_version(fingerprint: str, chunking: ChunkingConfig) -> str:
    """Hash what decides whether a quarantined document is tried again: the pipeline and this package's version."""
    parts = f"{pipeline_hash(fingerprint, chunking.to_dict())} {version('kvembed')}"
    return hashlib.sha256(parts.encode("ascii")).hexdigest()


@dataclass(slots=True)
class IngestRun:
    """State of one run; `survey` comes first, then `execute`.

    `asked` is the chunking the caller named; None takes the collection's own, or the default for a new one.
    """

    store: Store
    source: Source
    name: str
    encoder: KVEncoder
    asked: ChunkingConfig | None
    delete: Delete
    progress: Progress
    chunking: ChunkingConfig = field(init=False, default_factory=ChunkingConfig)
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

    def survey(self, *, count: bool = False) -> IngestPlan:
        """Compare the source with the ledger; with `count`, cut what is new to see how much there is to embed."""
        started = perf_counter()
        self.collection = find_collection(self.store, self.name)
        stored = self.collection.manifest.chunking if self.collection is not None else {}
        self.chunking = self.asked or ChunkingConfig.from_dict(stored)
        if self.collection is not None:
            self.encoder = adopt_layers(self.encoder, self.collection.manifest)
            check_same(self.collection, self.encoder, self.chunking)
        resolved = self.encoder.config.layers != "auto"
        pipeline = pipeline_version(self.encoder.fingerprint, self.chunking) if resolved else ""
        self.found = self._comparison(pipeline)
        self.sample = None if resolved or count else ChunkSample()
        chunker = Chunker(self.chunking, self.encoder)

        def look(document: Document, wanted: bool) -> None:
            with suppress(*CHUNKING_FAILURES):  # the writer meets it again, and quarantines the document
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
        remember_model(self.encoder.config)  # before the work: a run that is cut short is continued without --model
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
        if self.store.embedded and (count := points.count()) > _EMBEDDED_LIMIT:
            warnings.append(_ADVICE.format(count=count))
        return self._report(planned, writer, warnings)

    def _comparison(self, pipeline: str) -> Survey:
        """Gather what the store already says of the documents."""
        if self.collection is None:
            return Survey(pipeline, None)
        ledger = self.collection.ledger
        if in_flight := frozenset(ledger.run().in_flight):
            return Survey(pipeline, ledger, in_flight)
        points = PointStore(self.store, self.collection.physical)
        return Survey(pipeline, ledger, damaged=damaged_documents(ledger, points))

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
        return warnings

    def _write(self, writer: Writer, planned: IngestPlan) -> set[str]:
        """Read the source again and write what was planned; returns the planned deletions that are there after all."""
        wanted = {*planned.added, *planned.changed}
        deleted = set(planned.deleted)
        back: set[str] = set()
        due = (document for document in self._documents(writer, deleted, back) if document.id in wanted)
        self.progress("embed", 0, len(wanted))
        for batch in text_batches(due, _READ):
            for done in writer.write(batch):
                self.progress("embed", done, len(wanted))
        for done in writer.flush():
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
        if found.id in self.found.rejected:
            return
        writer.quarantine([(found.id, found.source, quarantine_of(found, self.found.pipeline))])
        writer.tally.quarantined.append(
            QuarantinedDocument(found.id, found.source, found.content_hash, found.stage, found.reason)
        )

    def _count(self, chunker: Chunker, document: Document) -> None:
        tokenizer = self.encoder.tokenizer
        texts = [chunk.embedded_text for chunk in chunker.chunks(document)]  # all of them, or it is not written
        self.chunks += len(texts)
        overhead = self.encoder.document_overhead
        self.tokens += sum(len(tokenizer.encode(text, add_special_tokens=False).ids) + overhead for text in texts)

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
