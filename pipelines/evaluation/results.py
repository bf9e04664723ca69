"""What an evaluation found: several systems over the same judged queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.errors import TerminalError
from pipelines.evaluation.measures import DEPTH
from pipelines.evaluation.queries import DatasetCounts, JudgedQuery
from pipelines.evaluation.systems import System


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Systems over the same queries, and everything needed to get them again.

    Attributes:
        dataset: Name of the data set, or of the questions' file.
        queries: Query id -> judged query, those that count, in the data set's order.
        counts: What else the data set held.
        systems: The first is the one asked about, the others stand beside it; names differ.
        collection: The existing collection that was searched; None where the data set was indexed for the purpose.
        versions: Package -> version.
        depth: Documents ranked per query at most.
        command: What it was made with, as a shell takes it; empty where no command made it.
    """

    dataset: str
    queries: Mapping[str, JudgedQuery]
    counts: DatasetCounts
    systems: tuple[System, ...]
    collection: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    depth: int = DEPTH
    command: str = ""

    def __post_init__(self) -> None:
        names = [system.name.casefold() for system in self.systems]
        if not names or len(set(names)) < len(names):
            raise TerminalError(f"an evaluation needs systems of different names; it has {names}")

    @property
    def main(self) -> System:
        """The system asked about."""
        return self.systems[0]

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> mean, of the system asked about."""
        return self.main.metrics

    def system(self, name: str) -> System:
        """Return the system of that name.

        Raises:
            TerminalError: there is none; naming those there are.
        """
        for system in self.systems:
            if system.name == name:
                return system
        raise TerminalError(f"no system {name!r} in this result; it has {', '.join(one.name for one in self.systems)}")

    def with_systems(self, *more: System) -> EvaluationResult:
        """Return a copy with further systems, which were scored on the same queries."""
        return replace(self, systems=(*self.systems, *more))

    def led_by(self, name: str) -> EvaluationResult:
        """Return a copy in which the system of that name is the one asked about.

        Raises:
            TerminalError: there is none.
        """
        first = self.system(name)
        return replace(self, systems=(first, *(system for system in self.systems if system is not first)))

    def first_relevant_rank(self, system: System, query: str) -> int | None:
        """Return the place, from 1, of the first relevant document in a ranking; None where none was found."""
        grades = self.queries[query].judgements
        places = (place for place, (name, _) in enumerate(system.rankings[query], 1) if grades.get(name, 0) > 0)
        return next(places, None)
