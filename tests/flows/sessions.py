"""A run in stages that does nothing but fail as it is told, and what Prefect recorded of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
)

import pipelines
from flows import index, stages

REPORT = SimpleNamespace(collection="docs", source="docs", quarantined=(), to_dict=lambda: {"collection": "docs"})


class ScriptedRun:
    """Stands for `pipelines.indexing.Indexing`.

    Args:
        errors: Stage -> what its calls raise in turn, before they succeed.
        groups: How many there are to run.
    """

    def __init__(self, errors: dict[str, list[Exception]], groups: int = 1) -> None:
        self.errors = {stage: list(raised) for stage, raised in errors.items()}
        self.calls: list[str] = []
        self.opened: list[dict[str, object]] = []
        self.closed = 0
        self.executors: list[tuple[str, dict[str, object]]] = []
        self.executors_closed = 0
        self._groups = groups

    @contextmanager
    def open(self, *_: object, **given: object) -> Iterator[ScriptedRun]:
        self.opened.append(given)
        try:
            self._do("open")
            yield self
        finally:
            self.closed += 1

    def executor(self, name: str, **given: object) -> ScriptedRun:
        self.executors.append((name, given))
        return self

    def close(self) -> None:
        self.executors_closed += 1

    def plan(self) -> SimpleNamespace:
        self._do("plan")
        return SimpleNamespace(added=(), changed=(), moved=(), deleted=(), unchanged=0)

    def groups(self, most: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(number=number) for number in range(min(self._groups, most))]

    def run_group(self, group: SimpleNamespace) -> SimpleNamespace:
        self._do(f"group {group.number}")
        return SimpleNamespace(documents=0, chunks=0, tokens=0)

    def verify(self) -> None:
        self._do("verify")

    def promote(self) -> SimpleNamespace:
        self._do("promote")
        return REPORT

    def _do(self, stage: str) -> None:
        self.calls.append(stage)
        if self.errors.get(stage):
            raise self.errors[stage].pop(0)


def scripted(patch: pytest.MonkeyPatch, groups: int = 1, **errors: list[Exception]) -> ScriptedRun:
    """Let flows open a scripted run, and retry without a pause."""
    run = ScriptedRun({stage.replace("_", " "): raised for stage, raised in errors.items()}, groups)
    patch.setattr(index, "open_indexing", run.open)
    patch.setattr(index, "open_encoder", lambda *_, **__: None)
    patch.setattr(index, "open_executor", run.executor)
    patch.setattr(pipelines, "open_source", lambda source, **fields: source)
    for stage in (stages.plan, stages.run_shard_group, stages.verify, stages.promote):
        patch.setattr(stage, "retry_delay_seconds", [0.0, 0.0, 0.0])
    return run


def recorded_run(name):
    """Return the one run of that name."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
        return run


def recorded_tasks(run, count, seconds=20.0):
    """Return the task runs of a flow run when there are so many: the server records them a moment after they ended."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    deadline = time.monotonic() + seconds
    with get_client(sync_client=True) as client:
        while len(found := client.read_task_runs(flow_run_filter=wanted)) < count and time.monotonic() < deadline:
            time.sleep(0.1)
    return found


def artifact(key):
    """Return the last artifact of that key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return max(found, key=lambda one: one.created)
