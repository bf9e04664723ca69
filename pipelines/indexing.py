"""A run in steps: planned, embedded group by group, verified, promoted.

`pipelines.ingest` takes them one after the other; a flow takes each as a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeAlias

from pipelines import telemetry
from pipelines.errors import StoreLockedError, TooManyQuarantinedError
from pipelines.executors import Executor, ExecutorName, open_executor
from pipelines.ingest_run import IngestRun
from pipelines.lease import write_lease
from pipelines.options import IngestOptions
from pipelines.physical import check_name
from pipelines.planning import check_deletions
from pipelines.rebuild import check_rebuild, take_over
from pipelines.report import silent
from pipelines.run_records import RunRecord
from pipelines.sources import open_source
from pipelines.store import open_store

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.documents import Document
    from pipelines.report import IngestPlan, IngestReport, Progress
    from pipelines.shards import ShardGroup
    from pipelines.sources import Source
    from pipelines.store import Store, StoreLike
    from pipelines.writing import GroupReport, WritingPass

SourceLike: TypeAlias = "str | Path | Source | Iterable[Document]"

_NAMED = 3
_LOOK = 0.2  # seconds between two looks at a locked folder


class Indexing:
    """One run into one collection; made by `open_indexing`.

    The steps are taken in order: `plan`, `groups`, `run_group` for each of them, `verify`, `promote`. A group may be
    run again after an error that may pass; what it committed is found and left alone. All calls come from one thread
    at a time.
    """

    def __init__(self, run: IngestRun, held: ExitStack, told: telemetry.Told) -> None:
        self._run = run
        self._told = told
        self._held = held
        self._planned: IngestPlan | None = None
        self._last: IngestPlan | None = None
        self._writing: WritingPass | None = None

    def plan(self) -> IngestPlan:
        """Compare the source with the collection; where there is something to write, take the lease and make room.

        Raises:
            PipelineError: as `pipelines.ingest` says.
        """
        run = self._run
        planned = _checked(run)
        if not run.changes_nothing(planned):
            run.progress("lease", 0, None)
            lease = self._held.enter_context(write_lease(run.store, run.name, run.options.wait))
            run.store, run.ticket = lease.store, lease.ticket
            if not run.is_current():
                planned = _checked(run)
            with telemetry.stage("prepare"):
                run.prepare()
                self._writing = run.begin(planned)
        self._planned = planned
        return planned

    def groups(self, most: int = 50) -> list[ShardGroup]:
        """Put what is to be embedded into groups of shards; none when there is nothing.

        Args:
            most: Groups, at least 1.

        Raises:
            ValueError: most is less than 1.
        """
        return self._writing.groups(most) if self._writing is not None else []

    def run_group(self, group: ShardGroup) -> GroupReport:
        """Embed a group and commit its documents: when this returns they are searchable, or quarantined.

        Raises:
            RuntimeError: nothing was planned.
            PipelineError: as `pipelines.ingest` says.
        """
        if self._writing is None:
            raise RuntimeError("there is nothing to run: call plan() first, and run the groups of groups()")
        with telemetry.stage("write"):
            return self._writing.embed(group)

    def verify(self) -> None:
        """Delete what left the source; bring a new generation up to date, and check it.

        Raises:
            RuntimeError: a group was not run.
            RebuildError: the new generation is not fit to take the old one's place.
        """
        if self._writing is None:
            return
        with telemetry.stage("verify"):
            self._writing.finish()
            if self._run.target.replaces is not None:
                self._last = check_rebuild(self._run)

    def promote(self) -> IngestReport:
        """Let the name stand for a new generation, if one was built, and report.

        Raises:
            RuntimeError: nothing was planned, or what was built was not verified.
        """
        if self._planned is None:
            raise RuntimeError("there is nothing to report: call plan() first")
        replaced = self._run.target.replaces if self._writing is not None else None
        if replaced is None:
            self._told.report = self._run.report(self._planned)
            return self._told.report
        if self._last is None:
            raise RuntimeError("a generation that was not checked is not taken over: call verify() first")
        take_over(self._run)
        last = replace(self._last, unchanged=self._planned.unchanged)  # the last pass finds all of them unchanged
        self._told.report = self._run.report(last, replaced=replaced)
        return self._told.report


@contextmanager
def open_indexing(
    source: SourceLike,
    store: StoreLike | None,
    name: str,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    options: IngestOptions | None = None,
    executor: ExecutorName | Executor = "inline",
    progress: Progress | None = None,
) -> Iterator[Indexing]:
    """Open a run that is taken in steps; leaving it ends its processes, gives the lease back and closes the store.

    Args:
        source: As `pipelines.ingest` takes it, as all that follows.
        store: Where to.
        name: Collection.
        encoder: Fills it.
        chunking: How documents are cut.
        options: What the run may do.
        executor: Who embeds; one that was made before is left open.
        progress: Told how far the run is.
    """
    allowed = options or IngestOptions()
    check_name(name)
    found = open_source(source)
    with telemetry.indexing(name, found.description) as told, ExitStack() as held:
        if isinstance(executor, str):
            executor = open_executor(executor)
            held.callback(executor.close)
        opened = held.enter_context(_opened(store, allowed.wait))
        run = IngestRun(opened, found, name, encoder, chunking, allowed, progress or silent)
        run.executor = executor
        yield Indexing(run, held, told)


def _opened(store: StoreLike | None, wait: float) -> Store:
    """Open a store; the lock of a folder is waited for as a lease is."""
    deadline = monotonic() + wait
    while True:
        try:
            return open_store(store)
        except StoreLockedError:
            if monotonic() >= deadline:
                raise
        sleep(_LOOK)


def _checked(run: IngestRun) -> IngestPlan:
    with telemetry.stage("plan"):
        planned = run.survey()
    telemetry.last_good_runs(run.name, [one.finished_at for one in run.seen if isinstance(one, RunRecord)])
    check_deletions(planned, run.options.delete, run.options.guard)
    rejected, allowed = run.found.fresh_rejections, run.options.max_quarantined
    if allowed is not None and len(rejected) > allowed:  # nothing has been written yet, and nothing will be
        first = [f"{found.id!r}: {found.reason}" for found in rejected[:_NAMED]]
        raise TooManyQuarantinedError(run.name, len(rejected), allowed, first)
    return planned
