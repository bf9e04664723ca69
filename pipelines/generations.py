"""Generations of a name: built beside each other, swapped in by one alias call, rolled back to, pruned."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipelines.collection import get_collection, load_collection, point_alias
from pipelines.control import Control, ControlRecord
from pipelines.errors import ForeignCollectionError, ManifestError, NoPreviousGenerationError, RebuildError
from pipelines.lease import write_lease
from pipelines.manifest import now
from pipelines.physical import aliases, collections, generations, ledger_name
from pipelines.store import open_store

if TYPE_CHECKING:
    from pipelines.collection import Collection
    from pipelines.errors import JSON
    from pipelines.options import Delete
    from pipelines.planning import Gone, Survey
    from pipelines.store import Store, StoreLike

GRACE = timedelta(days=7)
"""How long a generation that was replaced stays, so that readers move on and a rollback is possible."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A name that stands for another physical collection now."""

    collection: str
    physical: str
    """What it stands for."""
    replaced: str
    """What it stood for; the next rollback returns there."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the swap as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed of a name, and what was not yet."""

    collection: str
    removed: tuple[str, ...]
    """Physical collections that are gone, with their ledgers."""
    kept: tuple[str, ...]
    """Physical collections beside the live one that are younger than the grace period, or being built."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the report as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def announce(store: Store, name: str, building: str, live: str) -> None:
    """Note which generation is being built, so that a run that is cut short is continued and prune leaves it."""
    control = Control(store, name)
    record = control.record(live)
    if record.building != building:
        begun = record.without(building)  # what is written to is nothing to roll back to
        control.put_record(replace(begun, building=building, replaces="", swapped_at=now()))


def check_gone(name: str, found: Survey, gone: Gone, delete: Delete) -> None:
    """Refuse to build a generation that would lack documents which are to be kept: it has what the source has.

    Args:
        name: Of the collection.
        found: The comparison with the source.
        gone: Documents that are searchable now and that the source seems to lack.
        delete: What is to happen to such documents.

    Raises:
        RebuildError: there are some.
    """
    if not gone.doomed or not found.keeps(delete):
        return
    if delete == "guarded":
        raise RebuildError(f"no new generation of {name!r} is built: {found.doubt(len(gone.doomed))}")
    raise RebuildError(
        f"{len(gone.doomed)} documents of collection {name!r} are not in this source, first {min(gone.doomed)!r}; "
        "a new generation is built from the source and cannot keep them; index all sources as one, or pass "
        "`--delete all` to let them go"
    )


def swap_in(store: Store, name: str, built: str, live: str, *, ours: bool = True) -> None:
    """Let a name stand for the generation that was built.

    The record is written before the alias moves; read together with the alias it is right at any moment.

    Args:
        store: Of whoever holds the write lease.
        name: The alias.
        built: Physical collection that is complete and verified.
        live: What the alias points to.
        ours: A rollback may return to `live`.
    """
    control = Control(store, name)
    record = replace(control.record(live), building=built, replaces=live if ours else "", swapped_at=now())
    control.put_record(record)
    point_alias(store, name, built, live)
    control.put_record(record.swapped_to(built))


def rollback(store: StoreLike | None, name: str, *, wait: float = 0.0) -> Swap:
    """Return to the generation that was live before, with its encoder and its documents as they were then.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection.
        wait: Seconds to wait for a run that is writing.

    Raises:
        CollectionNotFoundError: no collection of that name.
        NoPreviousGenerationError: there is no other generation, or it was pruned.
        CollectionBusyError: a run is writing.
    """
    with open_store(store, create=False) as opened:
        get_collection(opened, name)
        with write_lease(opened, name, wait) as lease:
            live = get_collection(lease.store, name)
            record = Control(lease.store, name).record(live.physical)
            previous = _previous(lease.store, live, record)
            swap_in(lease.store, name, previous, live.physical)
            return Swap(name, previous, live.physical)


def prune(store: StoreLike | None, name: str, *, grace: timedelta = GRACE, wait: float = 0.0) -> PruneReport:
    """Delete the generations of a name that are neither live nor needed.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection.
        grace: Keep those that were live, or were begun, less than this ago.
        wait: Seconds to wait for a run that is writing.

    Raises:
        CollectionNotFoundError: no collection of that name.
        CollectionBusyError: a run is writing.
    """
    with open_store(store, create=False) as opened:
        get_collection(opened, name)
        with write_lease(opened, name, wait) as lease:
            return _pruned(lease.store, get_collection(lease.store, name), datetime.now(UTC) - grace)


def _pruned(store: Store, live: Collection, before: datetime) -> PruneReport:
    control = Control(store, live.name)
    record = control.record(live.physical)
    removed, kept = [], []
    named = set(aliases(store).values())
    for physical in generations(store, live.name):
        if physical in named:
            continue
        if _age(store, live.name, physical, record) > before:
            kept.append(physical)
            continue
        if physical == record.building:
            record = replace(record, building=None, replaces="", swapped_at="")
        record = record.without(physical)
        control.put_record(record)  # first, so that no rollback is offered to what is going
        for doomed in (physical, ledger_name(physical)):
            if doomed in collections(store):
                store.call(store.client.delete_collection, doomed)
        removed.append(physical)
    return PruneReport(live.name, tuple(removed), tuple(kept))


def _age(store: Store, name: str, physical: str, record: ControlRecord) -> datetime:
    """Tell when a generation was last of use: retired, or begun."""
    if physical == record.building:
        return datetime.fromisoformat(record.swapped_at)
    for old in record.retired:
        if old.physical == physical:
            return datetime.fromisoformat(old.at)
    if physical not in collections(store):
        return datetime.min.replace(tzinfo=UTC)  # a ledger whose points went before a prune was cut short
    try:
        return datetime.fromisoformat(load_collection(store, name, physical).manifest.created_at)
    except (ForeignCollectionError, ManifestError):
        return datetime.now(UTC)  # not ours to judge


def _previous(store: Store, live: Collection, record: ControlRecord) -> str:
    there = collections(store)
    for old in record.retired:
        if old.physical in there:
            return load_collection(store, live.name, old.physical).physical
    raise NoPreviousGenerationError(live.name)
