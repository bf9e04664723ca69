"""One run over a corpus, stage by stage: each a task that is tried again by itself after a transient error.

There are at most `GROUPS` + 3 task runs whatever the corpus: Prefect takes 10 to 25 ms for one, and its SQLite locks up
under thousands. Documents, chunks and vectors stay in pipelines; Prefect sees counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, TypeVar, cast

from prefect.logging import get_run_logger
from prefect.utilities.annotations import quote

from flows.transient import retried

if TYPE_CHECKING:
    from pipelines.indexing import Indexing
    from pipelines.report import IngestReport
    from pipelines.shards import ShardGroup
    from pipelines.writing import GroupReport

T = TypeVar("T")

GROUPS = 40
"""Most groups of shards that one run is cut into."""


def run_stages(opened: Callable[[], AbstractContextManager[Indexing]]) -> IngestReport:
    """Bring a collection up to date.

    Args:
        opened: Opens the run; called again for another attempt to plan.

    Raises:
        TerminalError: the run failed and would fail again.
        TransientError: the run failed after every retry.
    """
    with ExitStack() as held:
        run = plan(_as_it_is(held), _as_it_is(opened))
        kept = _as_it_is(run)
        groups = run.groups(most=GROUPS)
        for group in groups:
            run_shard_group(kept, _as_it_is(group), group.number + 1, len(groups))
        verify(kept)
        return promote(kept)


@retried("plan")
def plan(held: ExitStack, opened: Callable[[], AbstractContextManager[Indexing]]) -> Indexing:
    """Compare source and collection; where there is something to write, take the lease and prepare the collection.

    Args:
        held: Closes the run; an attempt before this one is closed first.
        opened: Opens the run.
    """
    held.close()
    run = held.enter_context(opened())
    planned = run.plan()
    get_run_logger().info(
        "%d documents to add, %d changed, %d moved, %d to delete, %d unchanged",
        *(len(documents) for documents in (planned.added, planned.changed, planned.moved, planned.deleted)),
        planned.unchanged,
    )
    return run


@retried("run-shard-group", "shards {number} of {total}")
def run_shard_group(run: Indexing, group: ShardGroup, number: int, total: int) -> GroupReport:
    """Embed one group of shards and commit its documents; what an earlier attempt committed is not done again."""
    done = run.run_group(group)
    get_run_logger().info("%d documents, %d chunks, %d tokens", done.documents, done.chunks, done.tokens)
    return done


@retried("verify")
def verify(run: Indexing) -> None:
    """Delete what left the source; check a new generation before it may take the old one's place."""
    run.verify()


@retried("promote")
def promote(run: Indexing) -> IngestReport:
    """Let the name stand for a new generation, if one was built, and report."""
    return run.promote()


def _as_it_is(argument: T) -> T:
    """Hand an argument to a task unseen: Prefect would look through it for results of other tasks."""
    return cast(T, quote(argument))
