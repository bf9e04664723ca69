"""What is done when a run ends out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from prefect.logging.loggers import flow_run_logger

from flows.secrets import store_key
from pipelines.left_over import release_left_over

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

P = ParamSpec("P")
R = TypeVar("R")


def release_lease(flow: Flow[P, R], flow_run: FlowRun, state: State[object]) -> None:
    """Free the write lease that a run left behind.

    A run that fails, or is told to end, has released it before this is called. For one that was killed the worker
    calls this, on the machine where it died; the lease of a process that lives is left alone.
    """
    name = str(flow_run.parameters["name"])
    with store_key():
        holder = release_left_over(flow_run.parameters.get("store"), name)
    if holder is not None:
        flow_run_logger(flow_run).info("released the write lease of %r, left by %s", name, holder)
