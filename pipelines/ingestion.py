"""A source into a collection: plan, then write what the plan says, then report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.indexing import SourceLike, open_indexing
from pipelines.ingest_run import IngestRun
from pipelines.options import Delete, DeletionGuard, IngestOptions, OnChange
from pipelines.physical import check_name
from pipelines.report import silent
from pipelines.sources import open_source
from pipelines.store import open_store_to_look

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.executors import Executor, ExecutorName
    from pipelines.report import IngestPlan, IngestReport, Progress
    from pipelines.storage import StorageConfig
    from pipelines.store import StoreLike


def ingest(
    source: SourceLike,
    store: StoreLike | None,
    name: str,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    delete: Delete = "guarded",
    guard: DeletionGuard | None = None,
    storage: StorageConfig | None = None,
    on_change: OnChange = "rebuild",
    wait: float = 0.0,
    retry_quarantined: bool = False,
    max_quarantined: int | None = None,
    adopt: bool = False,
    executor: ExecutorName | Executor = "inline",
    progress: Progress | None = None,
) -> IngestReport:
    """Bring a collection in line with a source.

    The source is read twice: once to see what changed, which is refused as a whole before anything is written if
    too much would be deleted; then once more, when there is something to write. Every document is committed by
    itself: its new points are written, then its ledger entry, then its old points are deleted. A run that ends
    early leaves what it committed, and the next one continues.

    Another encoder or chunking than the collection's builds a new generation beside it, from the source. People
    search the old one until the new one is complete and verified; then the name stands for the new one, and the old
    one is kept for `rollback` until `prune`.

    A collection mirrors one source: documents that another source put there are gone from this one. With
    `delete="none"` a source adds to what is there.

    A collection has one writer at a time: a run that has something to write takes a lease in the store first.

    Args:
        source: Folder, file, `.jsonl`, `.parquet`, `hf:NAME[:CONFIG][:SPLIT]`, a `Source`, or documents.
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection; made when there is none.
        encoder: Fills the collection. Layers "auto" become those of the collection, or are chosen from the corpus.
        chunking: How documents are cut; None cuts as the collection was cut, a new one as `ChunkingConfig` does.
        delete: Documents that are gone from the source: "guarded" refuses when they are many, "all" deletes them,
            "none" keeps them.
        guard: What many is; None takes 20% above 5 documents, and 100 documents. All documents of a collection
            are always many.
        storage: How a server keeps the vectors; None leaves a collection as it is. Nothing is embedded anew for it.
        on_change: "refuse" raises where "rebuild" builds a new generation.
        wait: Seconds to wait for another run that is writing; one that is silent is waited for in any case, until
            its lease ends.
        retry_quarantined: Try documents again that failed before, though nothing changed.
        max_quarantined: End the run once more documents than this failed in it.
        adopt: Take over what was not made here: an empty collection of that name, or an alias, which moves when our
            collection is complete.
        executor: Who embeds: see `pipelines.executors`. One that was made before is left open.
        progress: Told how far the run is.

    Raises:
        SourceError: nothing can be read there.
        StoreError: the store refuses.
        StoreUnavailableError: the store may answer later.
        EncoderMismatchError: another encoder or chunking filled the collection, and it may not be rebuilt.
        DeletionGuardError: too much would be deleted; nothing was written.
        RebuildError: a new generation was built, and is not fit to take the old one's place.
        TooManyQuarantinedError: more failed than are allowed; what was committed stays.
        CollectionBusyError: another run is writing.
        LeaseLostError: another run took over while this one was silent.
        ValueError: an option is not legal.
    """
    options = IngestOptions(
        delete=delete,
        guard=guard or DeletionGuard(),
        on_change=on_change,
        wait=wait,
        retry_quarantined=retry_quarantined,
        max_quarantined=max_quarantined,
        adopt=adopt,
        storage=storage,
    )
    with open_indexing(
        source, store, name, encoder, chunking=chunking, options=options, executor=executor, progress=progress
    ) as run:
        run.plan()
        for group in run.groups(1):
            run.run_group(group)
        run.verify()
        return run.promote()


def plan(
    source: SourceLike,
    store: StoreLike | None,
    name: str,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    delete: Delete = "guarded",
    on_change: OnChange = "rebuild",
    retry_quarantined: bool = False,
    adopt: bool = False,
    progress: Progress | None = None,
) -> IngestPlan:
    """Tell what `ingest` would do with the same arguments, and write nothing.

    Takes and raises what `ingest` does, but for the deletion guard: the plan says how many would go.
    """
    options = IngestOptions(delete, on_change=on_change, retry_quarantined=retry_quarantined, adopt=adopt)
    check_name(name)
    with open_store_to_look(store) as opened:
        run = IngestRun(opened, open_source(source), name, encoder, chunking, options, progress or silent)
        return run.survey(count=True)
