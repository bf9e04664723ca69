"""Does a collection hold what its ledger says, do its vectors belong to its texts, does its encoder still agree?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pipelines.errors import TransientError
from pipelines.inspection import Findings, inspect
from pipelines.lease import write_lease
from pipelines.ledger import Ledger
from pipelines.physical import resolve
from pipelines.repair import Mended, Repair
from pipelines.verdicts import problems_of, remedies_for

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.collection import Collection
    from pipelines.errors import JSON
    from pipelines.indexing import SourceLike
    from pipelines.report import Progress
    from pipelines.sources import Source
    from pipelines.store import Store, StoreLike

_NAMED = 20


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check found, what was mended, and what remains; numbers are of what was found, before any repair."""

    collection: str
    physical: str
    ok: bool
    """Nothing is wrong: where a repair was asked for, nothing any more."""
    problems: tuple[str, ...]
    """What is wrong, after the repair if there was one; one sentence each, for a person."""
    remedies: tuple[str, ...]
    """Commands and calls that mend it; SOURCE stands for what the collection was indexed from."""
    found: tuple[str, ...]
    """What was wrong before the repair; the problems where there was none."""
    documents: int
    chunks: int
    missing_points: int
    """Points that the ledger names and the collection lacks."""
    missing_documents: tuple[str, ...]
    """Ids of the first documents that lack points."""
    altered_payloads: int
    """Documents whose points do not carry the payloads that were written."""
    altered_documents: tuple[str, ...]
    """The first of them."""
    unsettled_documents: int
    """Other documents that the ledger has down to be written again."""
    stray_points: int
    """Points that no ledger entry names."""
    stray_ids: tuple[str, ...]
    """The first of them."""
    checked_vectors: int
    """Vectors that were compared with new ones of their text."""
    unchecked_vectors: int
    """Vectors that were to be compared, and whose text cannot be made again from what their point keeps."""
    altered_vectors: int
    """Vectors that are not those of their text."""
    altered_vector_ids: tuple[str, ...]
    """Points of the first of them."""
    canaries: int
    canary_difference: float
    """Largest difference between numbers of a stored and a new canary vector, both of unit length."""
    canary_cosine: float
    """Least cosine between a stored and a new canary vector."""
    tolerance: float
    interrupted: bool
    """The last run was cut short, or goes on; the next one mends what it left."""
    repaired_vectors: int
    """Embedded again from the stored text, and written with the same payload."""
    deleted_strays: int
    """Strays whose id proves that kvembed made them, of documents that have all their points without."""
    restored_entries: int
    """Ledger entries that were made anew, took points in that they had lost, or let go what is another document's."""
    marked_documents: int
    """Documents that the ledger now has down to be written again by the next run over their source."""
    rewritten_documents: int
    """Documents that a run over the given source wrote."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the report as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def verify(
    store: StoreLike | None,
    name: str,
    *,
    model: str | None = None,
    full: bool = False,
    sample: int = 64,
    repair: bool = False,
    source: SourceLike | None = None,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare manifest, ledger, points and vectors, and mend what can be mended if asked to.

    Every point's payload is read and compared with a hash in the ledger. Vectors are compared with new ones of the
    stored texts: a sample, drawn anew after each run that writes, or all. Without a repair nothing is written. A run
    that goes on meanwhile looks like one that was cut short.

    A repair takes the write lease. It embeds altered vectors again, all of them if the sample had any; it deletes
    strays that kvembed provably made where their document is complete without them, and gives them back to a ledger
    entry that has lost them; other strays are only named. Documents that lack points, or whose payloads were
    altered, are marked in the ledger: the next run over their source writes them anew, and a source given here is
    run over at once, without deleting anything. Nothing is mended with an encoder that contradicts the manifest or
    its canaries.

    What cannot be seen: a document of which points and ledger entry are both gone, an altered content hash in a
    ledger entry, and altered metadata of documents indexed by kvembed 0.1, whose ledger has no hash of payloads.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection.
        model: Where the model lies, if it was moved.
        full: Compare every vector; takes as long as indexing did.
        sample: Otherwise so many.
        repair: Mend what was found.
        source: What the collection was indexed from, for documents that have to be written again.
        wait: Seconds to wait for another writer.
        progress: Told how many points and vectors were looked at; a repair looks more than once.

    Raises:
        TerminalError: the collection cannot be opened; as `open_collection`.
        CollectionBusyError: a repair was asked for, and another run is writing.
        SourceError: nothing can be read there.
        ValueError: a negative sample, or a source without a repair.
    """
    from pipelines.retrieval import open_collection

    _check_arguments(sample, repair, source)
    with open_collection(store, name, model=model) as opened:
        pinned = opened.pinned()
        return verify_collection(
            pinned.store,
            pinned.collection,
            pinned.encoder,
            full=full,
            sample=sample,
            repair=repair,
            source=source,
            wait=wait,
            progress=progress,
        )


def verify_collection(
    store: Store,
    collection: Collection,
    encoder: KVEncoder,
    *,
    full: bool = False,
    sample: int = 64,
    repair: bool = False,
    source: SourceLike | None = None,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check one collection that is open already; takes, returns and raises what `verify` does."""
    from pipelines.sources import open_source

    _check_arguments(sample, repair, source)
    given = open_source(source) if source is not None else None  # a wrong one is refused before anything is mended
    found = inspect(store, collection, encoder, full=full, sample=sample, progress=progress)
    if not repair or found.clean or not found.trusted:
        return _report(collection, found, found, refused=repair and not found.trusted)
    found, mended = _repaired(store, collection, encoder, found, full, wait, progress)
    after = inspect(store, collection, encoder, vectors=found.suspects, progress=progress)
    rewritten = 0
    if given is not None and after.due:
        rewritten = _rewritten(store, collection, encoder, given, wait, progress)
        after = inspect(store, collection, encoder, sample=sample, vectors=found.suspects, progress=progress)
    return _report(collection, found, after, mended, rewritten)


def _repaired(
    store: Store,
    collection: Collection,
    encoder: KVEncoder,
    seen: Findings,
    full: bool,
    wait: float,
    progress: Progress | None,
) -> tuple[Findings, Mended]:
    """Look again, now that nobody else writes, and mend what is wrong."""
    with write_lease(store, collection.name, wait) as lease:
        if (resolve(lease.store, collection.name) or collection.name) != collection.physical:
            raise TransientError(f"collection {collection.name!r} was rebuilt meanwhile; verify it again")
        held = replace(collection, ledger=Ledger(lease.store, collection.physical))
        # One altered vector in a sample is a sign of more outside.
        every = bool(seen.vectors) and not full
        found = inspect(lease.store, held, encoder, full=every, vectors=seen.suspects, progress=progress)
        found.checked = max(found.checked, seen.checked)
        found.unchecked = max(found.unchecked, seen.unchecked)
        return found, Repair(lease.store, held, encoder).mend(found)


def _rewritten(
    store: Store, collection: Collection, encoder: KVEncoder, source: Source, wait: float, progress: Progress | None
) -> int:
    from pipelines.ingestion import ingest

    done = ingest(
        source, store, collection.name, encoder, delete="none", on_change="refuse", wait=wait, progress=progress
    )
    return done.documents_added + done.documents_changed


def _check_arguments(sample: int, repair: bool, source: SourceLike | None) -> None:
    if sample < 0:
        raise ValueError(f"sample is {sample}; it must be a number of vectors, at least 0")
    if source is not None and not repair:
        raise ValueError("a source is read by a repair only; pass repair=True, or leave the source out")


def _report(
    collection: Collection,
    found: Findings,
    after: Findings,
    mended: Mended | None = None,
    rewritten: int = 0,
    *,
    refused: bool = False,
) -> VerifyReport:
    problems = problems_of(collection, after)
    if refused:
        problems.append("nothing was mended: new vectors of this encoder would not belong to the collection")
    done = mended or Mended()
    return VerifyReport(
        collection=collection.name,
        physical=collection.physical,
        ok=not problems,
        problems=tuple(problems),
        remedies=tuple(remedies_for(collection, after, repaired=mended is not None)),
        found=tuple(problems_of(collection, found)),
        documents=found.documents,
        chunks=found.chunks,
        missing_points=found.missing,
        missing_documents=tuple(found.lacking[:_NAMED]),
        altered_payloads=len(found.altered),
        altered_documents=tuple(found.altered[:_NAMED]),
        unsettled_documents=len(found.unsettled),
        stray_points=len(found.strays),
        stray_ids=tuple(found.strays[:_NAMED]),
        checked_vectors=found.checked,
        unchecked_vectors=found.unchecked,
        altered_vectors=len(found.vectors),
        altered_vector_ids=tuple(point.point_id for point in found.vectors[:_NAMED]),
        canaries=len(collection.manifest.canaries),
        canary_difference=found.difference,
        canary_cosine=found.cosine,
        tolerance=found.tolerance,
        interrupted=bool(after.in_flight),
        repaired_vectors=done.vectors,
        deleted_strays=done.deleted,
        restored_entries=len(done.restored),
        marked_documents=len(done.marked),
        rewritten_documents=rewritten,
    )
