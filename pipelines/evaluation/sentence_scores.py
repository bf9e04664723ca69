"""Systems over the same sentences: metrics with intervals, and each system tested against the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from pipelines.errors import TerminalError
from pipelines.evaluation.comparison import Comparison, MetricComparison
from pipelines.evaluation.sentence_statistics import (
    Figure,
    accuracy,
    difference,
    estimates,
    macro_f1,
    pearson,
    spearman,
    trading_test,
)
from pipelines.evaluation.sentence_tasks import LabelledTexts, SentencePairs, SentenceTask
from pipelines.evaluation.statistics import Estimate, holm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.evaluation.sentence_systems import SentenceSystem

METRICS: Mapping[type[SentenceTask], tuple[str, str]] = {
    SentencePairs: ("spearman", "pearson"),
    LabelledTexts: ("accuracy", "macro-f1"),
}
"""Kind of task -> its metrics, the main one first."""


@dataclass(frozen=True, slots=True)
class SentenceScores:
    """What systems scored.

    Attributes:
        estimates: System -> metric -> value with its interval.
        comparisons: Each system beside the first, compared with it: the first's value less the other's. Each metric is
            a family of its own, as in `compare_with_main`.
    """

    estimates: Mapping[str, Mapping[str, Estimate]]
    comparisons: tuple[Comparison, ...]

    def metrics(self, system: str) -> dict[str, float]:
        """Metric -> value, of one system."""
        return {name: one.mean for name, one in self.estimates[system].items()}


def score_sentences(task: SentenceTask, systems: Sequence[SentenceSystem]) -> SentenceScores:
    """Score systems; every interval and difference rests on the same draws of the items.

    Args:
        task: What was asked.
        systems: At least one; the first is the one asked about.

    Raises:
        TerminalError: a system finds all pairs equally alike, so that nothing correlates.
    """
    names = METRICS[type(task)]
    figures = [_figures(task, system) for system in systems]
    found, drawn, without = estimates([figure for row in figures for figure in row])
    width = len(names)
    columns = [[place * width + metric for metric in range(width)] for place in range(len(systems))]
    means = {
        system.name: dict(zip(names, (found[column] for column in own), strict=True))
        for system, own in zip(systems, columns, strict=True)
    }
    raw = [[trading_test(one, main) for one, main in zip(row, figures[0], strict=True)] for row in figures[1:]]
    corrected = list(zip(*(holm(column) for column in zip(*raw, strict=True)), strict=True))
    comparisons = []
    for place, system in enumerate(systems[1:], start=1):
        rows = []
        for metric, name in enumerate(names):
            pair = [columns[place][metric], columns[0][metric]]
            first, second = (found[column].mean for column in pair)
            apart = difference(first, second, drawn[:, pair], without[:, pair])
            p_values = raw[place - 1][metric], corrected[place - 1][metric]
            rows.append(MetricComparison(name, first, second, apart, *p_values))
        comparisons.append(Comparison(system.name, systems[0].name, len(task.ids), 0, tuple(rows)))
    return SentenceScores(means, tuple(comparisons))


def _figures(task: SentenceTask, system: SentenceSystem) -> list[Figure]:
    if isinstance(task, SentencePairs):
        similarities: NDArray[np.float64] = np.array(system.answers, dtype=np.float64)
        if np.ptp(similarities) == 0.0:
            raise TerminalError(f"{system.name} finds all {len(similarities)} pairs equally alike; nothing correlates")
        gold = np.array(task.scores)
        return [spearman(similarities, gold), pearson(similarities, gold)]
    labels = sorted({*task.labels, *task.train_labels})
    answers = cast("tuple[str, ...]", system.answers)
    return [accuracy(answers, task.labels), macro_f1(answers, task.labels, labels)]
