"""Any history, with runs that end anywhere, then one good run: what a clean build would leave.

Meanwhile every document is completely searchable in a form that the oracle allows, looked at after every single write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client.local.qdrant_local import QdrantLocal

from pipelines import (
    DeletionGuardError,
    NoPreviousGenerationError,
    RebuildError,
    TooManyQuarantinedError,
    ingest,
    prune,
    rollback,
)
from tests.faults.clean import described, emptied, expectation, is_whole
from tests.faults.histories import (
    PIPELINES,
    START,
    Corpus,
    Edit,
    Forms,
    Oracle,
    Step,
    document,
    encoder,
    histories,
    physical_of,
)
from tests.pipelines.stores import Crash, WatchedClient

PIPELINE_OF = {physical_of(number): number for number in range(len(PIPELINES))}


@pytest.fixture(scope="module", autouse=True)
def _small_groups() -> Iterator[None]:
    """Cut groups and requests so small that this small corpus needs several of each kind."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {
            "writer._SMALLEST_GROUP": 2,
            "writer._LARGEST_GROUP": 5,
            "writer._REMOVALS": 2,
            "ingest_run._READ": 3,
            "point_store._UPSERT": 3,
            "point_store._IDS": 4,
            "ledger._BATCH": 2,
        }.items():
            patch.setattr(f"pipelines.{name}", size)
        yield


class LookedAtClient(WatchedClient):
    """Lets somebody look at the store after every write, the one that ends the process included."""

    _look: Callable[[], None] | None = None

    def _watched(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def looked_at(*args: Any, **kwargs: Any) -> Any:
            result = operation(*args, **kwargs)
            if self._look is not None:
                self._look()
            return result

        return super()._watched(name, looked_at)


def live(client: WatchedClient) -> int | None:
    inner = client._client
    assert isinstance(inner, QdrantLocal)
    physical = inner.aliases.get("notes")
    return None if physical is None else PIPELINE_OF[physical]


def searchable(client: WatchedClient, pipeline: int) -> dict[str, dict[str, str]]:
    """Document -> point -> text, of what a search in that collection can find."""
    records, _ = client.scroll(physical_of(pipeline), limit=10_000)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        assert record.payload is not None
        found[record.payload["metadata"]["document_id"]][str(record.id)] = record.payload["page_content"]
    return found


class History:
    """A store that goes through a history, and the oracle beside it."""

    client = LookedAtClient()

    def __init__(self) -> None:
        emptied(self.client)
        self.oracle = Oracle()
        self.corpus: Corpus = dict(START)
        self.crashes = 0

    def take(self, step: Step) -> None:
        for edit in step.edits:
            edit.apply(self.corpus)
        if step.crash is not None:
            self.client.crash_at, self.client.applied = len(self.client.writes) + step.crash, step.applied
        try:
            {"ingest": self.ingest, "rollback": self.rollback, "prune": self.prune}[step.action](step)
        finally:
            self.client.crash_at = self.client._look = None

    def ingest(self, step: Step) -> None:
        outcome = self.oracle.outcome(step.pipeline, self.corpus, step.delete)
        self.client._look = lambda: self.look(step.pipeline, outcome)
        before, writes = self.oracle.live, len(self.client.writes)
        try:
            self.run(step)
        except DeletionGuardError:
            assert step.delete == "guarded"
            assert self.client.writes[writes:] == [], "what was refused was begun all the same"
            return
        except (Crash, RebuildError, TooManyQuarantinedError) as error:
            if isinstance(error, RebuildError) and step.delete == "all":
                raise
            self.crashes += isinstance(error, Crash)
            self.oracle.was_cut_short(step.pipeline, outcome)
        else:
            self.oracle.came_to_its_end(step.pipeline, outcome)
        seen = live(self.client)
        if before not in (None, seen):
            self.oracle.came_to_its_end(step.pipeline, outcome)
        self.oracle.live = seen
        self.client.crash_at = None
        self.look(step.pipeline, outcome)

    def run(self, step: Step) -> None:
        found = [document(one, form) for one, form in self.corpus.items()]
        ingest(
            found,
            self.client,
            "notes",
            encoder(step.pipeline),
            chunking=PIPELINES[step.pipeline][1],
            delete=step.delete,
            max_quarantined=step.allowed,
        )

    def rollback(self, step: Step) -> None:
        if self.oracle.live is None:
            return
        try:
            rollback(self.client, "notes")
        except (Crash, NoPreviousGenerationError) as error:
            self.crashes += isinstance(error, Crash)
        self.oracle.live = live(self.client)
        assert self.oracle.live in self.oracle.forms
        self.look(self.oracle.live, self.oracle.forms[self.oracle.live])

    def prune(self, step: Step) -> None:
        if self.oracle.live is None:
            return
        try:
            prune(self.client, "notes", grace=timedelta(0))
        except Crash:
            self.crashes += 1
            self.oracle.pruned(wholly=False)
        else:
            self.oracle.pruned(wholly=True)

    def look(self, pipeline: int, outcome: dict[str, Forms]) -> None:
        """Find every document complete in one of the forms that it may have."""
        seen = live(self.client)
        if seen is None:
            assert self.oracle.live is None, "the name stood for nothing"
            return
        there = searchable(self.client, seen)
        for one, forms in self.oracle.searchable(seen, pipeline, outcome):
            assert is_whole(there.get(one, {}), seen, one, forms), f"{one!r} is in none of these forms: {forms}"


def check(steps: list[Step], pipeline: int | None = None) -> int:
    """Go through a history, run once more, and compare; returns how many runs were cut short.

    Args:
        steps: The history.
        pipeline: Of the last run; None takes that of the last step.
    """
    history = History()
    for step in steps:
        history.take(step)
    last = pipeline if pipeline is not None else steps[-1].pipeline if steps else 0
    good = Step(pipeline=last)
    history.take(good)
    assert described(history.client, last) == expectation(history.client, last, history.corpus, history.oracle)
    writes = len(history.client.writes)
    history.take(good)
    assert history.client.writes[writes:] == [], "a second run wrote something"
    return history.crashes


def hold(examples: int, *, derandomize: bool) -> None:
    """Check that many histories, and that they are not harmless."""
    crashes: list[int] = []

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(histories, st.sampled_from([None, None, None, 0, 1, 2]))
    def holds(steps: list[Step], pipeline: int | None) -> None:
        crashes.append(check(steps, pipeline))

    holds()
    assert sum(crashes) >= examples, "hardly any run was cut short"
    assert max(crashes) >= 3, "no history has several of them"


def test_any_history_then_one_good_run_equals_a_clean_build() -> None:
    hold(100, derandomize=True)


@pytest.mark.slow
def test_thousands_of_histories_each_then_one_good_run_equal_a_clean_build() -> None:
    hold(3000, derandomize=False)


BROKEN = Edit("break", "b/c", "b/c", 0, 0)
POISONED = Edit("poison", "d|e", "d|e", 1, 0)
NOTED = Edit("note", "b/c", "b/c", 0, 3)
EXCHANGED = Edit("exchange", "d|e", "a", 1, 0)


@pytest.mark.parametrize(
    "steps",
    [
        [Step(pipeline=2), Step((BROKEN,)), Step(action="prune", crash=2, applied=True), Step(pipeline=2)],
        [Step(), Step((POISONED,))],
        [Step(), Step((EXCHANGED,), crash=1), Step(crash=6), Step((POISONED,))],
        [Step(), Step((NOTED,), crash=2, applied=True), Step((BROKEN,))],
        [Step(), Step((NOTED,), crash=2, applied=True), Step((BROKEN,), pipeline=2), Step()],
    ],
    ids=["pruned", "poisoned", "in-flight", "half", "half-retired"],
)
def test_history_that_went_wrong_once_holds(steps: list[Step]) -> None:
    check(steps)


def renamed(*pairs: tuple[str, str]) -> tuple[Edit, ...]:
    return tuple(Edit("rename", one, other, 0, 0) for one, other in pairs)


# The last step of each is cut short at every single write.
FIXED = {
    "renames": [Step(), Step(renamed(("a", "h\nh"), ("b/c", "ü")))],
    "renames-edited": [Step(), Step((*renamed(("d|e", "ü"), ("a", "d|e")), Edit("insert", "ü", "ü", 2, 2)))],
    "exchanged": [Step(), Step((Edit("exchange", "a", "d|e", 0, 0), Edit("copy", "b/c", "ü", 0, 0)))],
    "broken": [Step(), Step((BROKEN, POISONED, Edit("delete", "a", "a", 0, 0)))],
    "healed": [
        Step(),
        Step((BROKEN, POISONED)),
        Step((Edit("heal", "b/c", "a", 0, 0), Edit("heal", "d|e", "a", 0, 0))),
    ],
    "rebuilt": [Step((BROKEN,)), Step((EXCHANGED, *renamed(("f g", "ü"))), pipeline=1)],
    "returned": [Step(), Step((POISONED,), pipeline=2), Step(renamed(("a", "ü")))],
    "rolled-back": [Step(), Step((POISONED,), pipeline=2), Step(action="rollback")],
    "pruned": [Step(), Step((POISONED,), pipeline=2), Step(action="prune")],
}
OFTEN = ("renames-edited", "broken", "returned")


def check_every_write(steps: list[Step], *, applied: bool) -> None:
    *before, last = steps
    number = 0
    while check([*before, replace(last, crash=number, applied=applied)], last.pipeline):
        number += 1
    assert number >= 4


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied"])
@pytest.mark.parametrize("name", [pytest.param(one, marks=() if one in OFTEN else pytest.mark.slow) for one in FIXED])
def test_fixed_history_cut_short_at_every_write_then_one_good_run_equals_a_clean_build(
    name: str, applied: bool
) -> None:
    check_every_write(FIXED[name], applied=applied)
