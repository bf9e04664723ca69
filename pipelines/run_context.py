"""Which run, collection and stage a record or a measurement belongs to, without handing it through every call.

A new thread does not inherit it, as with every context variable of Python 3.11; a new process gets it by `resumed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class RunContext:
    """What is going on here.

    Attributes:
        run_id: Unique, a new one for each call of `ingest`.
        collection: Name that people use, not the physical collection's.
        stage: plan, prepare, write, verify; "" between them.
    """

    run_id: str
    collection: str
    stage: str = ""


_current: ContextVar[RunContext | None] = ContextVar("kvembed_run", default=None)


def current_run() -> RunContext | None:
    """Return what is going on in this thread; None outside of a run."""
    return _current.get()


@contextmanager
def new_run(collection: str) -> Iterator[RunContext]:
    """Begin a run."""
    run = RunContext(uuid4().hex, collection)
    with resumed(run):
        yield run


@contextmanager
def in_stage(stage: str) -> Iterator[None]:
    """Name the stage of the run that goes on, if one does."""
    run = current_run()
    with resumed(replace(run, stage=stage) if run is not None else None):
        yield


@contextmanager
def resumed(run: RunContext | None) -> Iterator[None]:
    """Go on with a run that began elsewhere, such as in the process that started this one."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)
