"""A new generation beside the live one: built from the source, caught up, verified, then swapped in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.errors import RebuildError
from pipelines.generations import swap_in
from pipelines.planning import check_deletions
from pipelines.recall import recall_check
from pipelines.storage import StorageConfig
from pipelines.store import batches
from pipelines.verification import verify_collection

if TYPE_CHECKING:
    from pipelines.collection import Collection
    from pipelines.ingest_run import IngestRun
    from pipelines.report import IngestPlan

_BATCH = 256
_NAMED = 5
_RECALL = 0.95
"""Least share of sampled documents that their own text must find: an index may miss some, a wrong one misses most."""


def check_rebuild(run: IngestRun) -> IngestPlan:
    """Bring a generation that was written up to date, and check that it is fit to take the old one's place.

    Args:
        run: Has written its plan.

    Returns:
        The comparison of the last pass.

    Raises:
        RebuildError: it is not complete or not sound; the name stands for what it stood for, and what was built is
            kept for the next run.
    """
    planned = run.catch_up()
    check_deletions(planned, run.options.delete, run.options.guard)  # the source may have emptied while it was built
    found = run.found
    left = (planned.added, planned.changed, planned.moved, found.gone.doomed, found.gone.forgotten)
    if any(left) or found.fresh_rejections:
        run.write(planned)
    run.progress("verify", 0, None)
    _check_complete(run)
    _check_kept(run)
    _check_sound(run)
    return planned


def take_over(run: IngestRun) -> None:
    """Let the name stand for the generation that was checked."""
    target = run.target
    if target.replaces is not None:
        swap_in(run.store, run.name, target.made.physical, target.replaces, ours=target.live is not None)


def _check_complete(run: IngestRun) -> None:
    """Every document of the source has an entry, searchable or quarantined, and no other document has one."""
    entries = sum(1 for _ in run.target.made.ledger.scan())
    if entries != run.found.documents.seen:
        raise RebuildError(
            f"the new generation of {run.name!r} has {entries} documents where the source has "
            f"{run.found.documents.seen}: the source changes faster than it is read; run again, it goes on from here"
        )


def _check_kept(run: IngestRun) -> None:
    """Few documents that are searchable now and still in the source may be missing from the new generation."""
    live, options = run.target.live, run.options
    if options.delete == "all":
        return
    if live is None:
        if not any(entry.committed for entry in run.target.made.ledger.scan()):
            raise RebuildError(
                f"nothing of the source is searchable in the new collection, so the alias {run.name!r} was not taken "
                "over; mend the source, or pass `--delete all`"
            )
        return
    lost = [document_id for document_id in _unsearchable(live, run.target.made) if run.found.has(document_id)]
    known = sum(entry.committed for entry in live.ledger.scan())
    if not options.guard.allows(len(lost), known):
        named = ", ".join(map(repr, lost[:_NAMED]))
        raise RebuildError(
            f"{len(lost)} of {known} documents of {run.name!r} that are searchable now are quarantined in the new "
            f"generation, first {named}; the name was not moved; see why with `kvembed index` and mend it, or pass "
            "`--delete all` to let them go"
        )


def _check_sound(run: IngestRun) -> None:
    made = run.target.made
    checked = verify_collection(run.store, made, run.target.encoder, progress=run.progress)
    kept = StorageConfig.from_dict(made.manifest.storage)
    recall = recall_check(run.store, made.physical, run.target.encoder, made.manifest, storage=kept)
    problems = list(checked.problems)
    if recall.found < _RECALL * recall.checked:
        problems.append(
            f"of {recall.checked} sampled documents {recall.checked - recall.found} are not found by their own text, "
            f"first {', '.join(map(repr, recall.missed_ids[:_NAMED]))}"
        )
    if problems:
        raise RebuildError(
            f"the new generation of {run.name!r} is not sound: {'; '.join(problems)}; the name was not moved; where "
            f"the next run does not mend it, `kvembed prune {run.name} --grace 0s` removes what was built"
        )


def _unsearchable(live: Collection, built: Collection) -> list[str]:
    """Return the documents that are searchable in one collection and not in the other."""
    found = []
    for entries in batches((entry for entry in live.ledger.scan() if entry.committed), _BATCH):
        there = built.ledger.get([entry.document_id for entry in entries], brief=True)
        found += [
            entry.document_id
            for entry in entries
            if entry.document_id not in there or not there[entry.document_id].committed
        ]
    return found
