"""A source into a collection: plan, then write what the plan says, then report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from pipelines.ingest_run import IngestRun
from pipelines.physical import check_name
from pipelines.planning import Delete, DeletionGuard, check_deletions
from pipelines.sources import open_source
from pipelines.store import open_store, open_store_to_look

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.documents import Document
    from pipelines.report import IngestPlan, IngestReport, Progress
    from pipelines.sources import Source
    from pipelines.store import Store, StoreLike

SourceLike: TypeAlias = "str | Path | Source | Iterable[Document]"


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

    A collection mirrors one source: documents that another source put there are gone from this one. With
    `delete="none"` a source adds to what is there.

    A collection has one writer at a time. An embedded folder is locked; on a server two runs that overlap would
    take each other's unfinished documents for those of a crash, and undo them. There is no lease yet, so see to it
    that they do not.

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
    with open_store_to_look(store) as opened:
        run = _start(opened, source, name, encoder, chunking, delete, progress)
        return run.survey(count=True)


def _start(
    store: Store,
    source: SourceLike,
    name: str,
    encoder: KVEncoder,
    chunking: ChunkingConfig | None,
    delete: Delete,
    progress: Progress | None,
) -> IngestRun:
    check_name(name)
    if delete not in get_args(Delete):
        raise ValueError(f"delete is {delete!r}; legal are {', '.join(get_args(Delete))}")
    return IngestRun(store, open_source(source), name, encoder, chunking, delete, progress or _silent)


def _silent(stage: str, done: int, total: int | None) -> None:
    """Take no note."""
