"""Histories of crashes, renames, rebuilds and quarantine, as in tests/faults, with workers that embed.

The runs of a history end at a write of the parent, which writes for its workers; the reader looks after every write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pipelines import ingest
from pipelines.executors.local import LocalExecutor
from tests.executors.light import LightConfig, load
from tests.faults import test_histories as histories
from tests.faults.histories import PIPELINES, Step, document
from tests.faults.test_histories import BROKEN, EXCHANGED, POISONED, History, renamed
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder


class Travelling(FakeConfig):
    """Arrives in a worker as the configuration of a light encoder of the same identity, which needs no torch."""

    def __reduce__(self) -> tuple[Any, ...]:
        return LightConfig, (self.prefix_bias, 0.0, "", 0, False, self.model)


class LocalHistory(History):
    executor: LocalExecutor

    def run(self, step: Step) -> None:
        config, chunking = PIPELINES[step.pipeline]
        ingest(
            [document(one, form) for one, form in self.corpus.items()],
            self.client,
            "notes",
            FakeEncoder(Travelling(prefix_bias=config.prefix_bias), poison="Poison"),
            chunking=chunking,
            delete=step.delete,
            max_quarantined=step.allowed,
            executor=self.executor,
        )


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, LocalExecutor(1, device="cpu", load=load) as executor:
        LocalHistory.executor = executor
        patch.setattr(histories, "History", LocalHistory)
        for name, size in {
            "executors.dealing._SMALLEST": 2,
            "executors.dealing._LARGEST": 3,
            "writer._REMOVALS": 2,
            "point_store._UPSERT": 3,
            "point_store._IDS": 4,
            "ledger._BATCH": 2,
        }.items():
            patch.setattr(f"pipelines.{name}", size)
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        [Step(), Step((EXCHANGED, *renamed(("f g", "ü"))), crash=7), Step((POISONED,), crash=9, applied=True)],
        [Step(crash=8, applied=True), Step((BROKEN, POISONED)), Step((EXCHANGED,), pipeline=2, crash=12), Step()],
    ],
    ids=["updated", "rebuilt"],
)
def test_history_over_workers_then_one_good_run_equals_a_clean_build(steps):
    assert histories.check(steps) >= 1


@pytest.mark.slow
def test_any_history_over_workers_then_one_good_run_equals_a_clean_build():
    crashes: list[int] = []

    @settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(histories.histories)
    def holds(steps: list[Step]) -> None:
        crashes.append(histories.check(steps))

    holds()
    assert sum(crashes) >= 12
