"""Which failures of a task are tried again, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from pipelines.errors import LeaseLostError, TransientError

P = ParamSpec("P")
R = TypeVar("R")

DELAYS = (2.0, 10.0, 30.0)
"""Seconds before the second, third and fourth attempt; what a call to the store waits for itself comes on top."""
JITTER = 0.5
"""Share of a delay by which it is longer or shorter, so that runs that failed together do not come back together."""


class _Retried(Protocol):
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


def may_pass(_task: Task[..., object], _run: TaskRun, state: State[object]) -> bool:
    """Tell whether the same call may succeed later; a lease that is lost needs a run of its own."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError) and not isinstance(error, LeaseLostError)


def retried(name: str, run_name: str | None = None) -> _Retried:
    """Make a function a task that is tried again after a transient error, and whose result stays in memory.

    Args:
        name: Name of the task in Prefect.
        run_name: Name of one run; parameters in braces.
    """

    def decorated(function: Callable[P, R], /) -> Task[P, R]:
        return Task(
            function,
            name=name,
            task_run_name=run_name,
            retries=len(DELAYS),
            retry_delay_seconds=list(DELAYS),
            retry_jitter_factor=JITTER,
            retry_condition_fn=may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorated
