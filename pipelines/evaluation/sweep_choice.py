"""What choosing among configurations is worth, and where TwoNN's window stands.

The best of many on some queries is better on them than on others: the more are tried, the more so. So the choice is
made on some queries and scored on the rest: the queries are parted into folds; for each fold the configuration that is
best on all the others is chosen, and its values on the fold are taken. That is repeated over several partings and
averaged, so that each query has one value, made by choices that never saw it. The interval is over queries, given the
choices.

Source: Varma and Simon 2006, "Bias in error estimation when using cross-validation for model selection".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import TerminalError
from pipelines.evaluation.statistics import CONFIDENCE, RESAMPLES, bootstrap, holm, randomisation_test
from pipelines.evaluation.sweep_records import Difference, Measured, Nested, Standing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EQUAL = 1e-12
"""Means of the same numbers, in units of a metric."""
_DIGITS = 12
"""Kept of a difference: what is left of equal values after they were summed up and divided is none."""
_CELLS = 4_000_000
"""Numbers held at once."""
_LEAST = 2
"""Queries per fold, so that a fold's mean is no single query."""


@dataclass(frozen=True, slots=True)
class Folds:
    """How queries are parted.

    Attributes:
        count: Parts.
        repeats: Partings.
        seed: Equal seeds part equal queries equally.
    """

    count: int = 5
    repeats: int = 20
    seed: int = 0

    def check(self, queries: int) -> None:
        """Refuse more folds than the queries bear.

        Raises:
            TerminalError: naming both.
        """
        if self.count < 2 or self.repeats < 1:
            raise TerminalError(
                f"{self.count} folds and {self.repeats} repeats: choosing on some queries and scoring on others takes "
                "at least 2 folds and 1 repeat"
            )
        if queries < _LEAST * self.count:
            fewer = f"give fewer --folds, at most {queries // _LEAST}, or " if queries >= 2 * _LEAST else "give "
            raise TerminalError(
                f"{queries} queries are too few to choose on some and score on others in {self.count} folds, which "
                f"takes at least {_LEAST * self.count}; {fewer}more queries"
            )

    def parts(self, queries: int) -> NDArray[np.int64]:
        """Return (repeats, queries), the fold of each query."""
        generator = np.random.default_rng(self.seed)
        order = [generator.permutation(queries) for _ in range(self.repeats)]
        return np.argsort(np.stack(order), axis=1) % self.count


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each query without it.

    Attributes:
        values: (n,) mean over the repeats.
        chosen: Column -> how often, of folds x repeats.
    """

    values: NDArray[np.float64]
    chosen: Counter[int]


def choose(table: NDArray[np.float64], folds: Folds, preferred: int = 0) -> Choice:
    """Choose on all folds but one, and score on that one.

    Args:
        table: (n, C), a row per query and a column per configuration.
        folds: How rows are parted.
        preferred: Column that is chosen where others are no better; then the first.
    """
    sums = table.sum(axis=0)
    total = np.zeros(len(table))
    chosen: Counter[int] = Counter()
    for parting in folds.parts(len(table)):
        for fold in range(folds.count):
            out = parting == fold
            means = (sums - table[out].sum(axis=0)) / (len(table) - out.sum())
            best = np.flatnonzero(means >= means.max() - _EQUAL)
            column = preferred if preferred in best else int(best[0])
            chosen[column] += 1
            total[out] += table[out, column]
    return Choice(total / folds.repeats, chosen)


def values_of(configurations: Sequence[Measured], metric: str) -> NDArray[np.float64]:
    """Return (n, C), a row per query in order of their ids: equal draws for equal queries, whatever their order."""
    names = sorted(configurations[0].per_query)
    return np.array([[one.per_query[name][metric] for one in configurations] for name in names])


def nested(table: NDArray[np.float64], labels: Sequence[str], folds: Folds, main: int) -> Nested:
    """Say what choosing among columns is worth.

    Args:
        table: (n, C).
        labels: Of the columns.
        folds: How rows are parted.
        main: Column of the configuration around which is swept.
    """
    found = choose(table, folds, main)
    [estimate] = bootstrap(found.values[:, None])
    [difference] = differences(np.round(found.values - table[:, main], _DIGITS)[:, None] + 0.0)
    return Nested(
        estimate=estimate,
        difference=difference,
        optimism=round(float(table.mean(axis=0).max() - estimate.mean), _DIGITS) + 0.0,
        chosen={labels[column]: count for column, count in found.chosen.most_common()},
    )


def differences(table: NDArray[np.float64]) -> list[Difference]:
    """Return a difference per column of paired differences (n, M)."""
    pairs = zip(bootstrap(table), randomisation_test(table), strict=True)
    return [Difference(estimate.mean, estimate.low, estimate.high, p_value) for estimate, p_value in pairs]


def corrected(found: Sequence[Difference], main: int) -> list[float]:
    """Return p values by Holm over everything but main, which is compared with itself."""
    others = [one.p_value for place, one in enumerate(found) if place != main]
    adjusted = holm(others)
    return [*adjusted[:main], 1.0, *adjusted[main:]]


def standing(
    windows: Mapping[str, Measured], own: str, none: Measured | None, metric: str, folds: Folds
) -> Standing | None:
    """Say where a window stands among all.

    Args:
        windows: Label -> configuration, no re-routing not among them.
        own: Label of TwoNN's.
        none: No re-routing.
        metric: By which.
        folds: For the choice among windows.

    Returns:
        None where there is but one window.
    """
    if len(windows) < 2:
        return None
    labels = list(windows)
    place = labels.index(own)
    table = values_of([*windows.values(), *([none] if none is not None else [])], metric)
    among, column = table[:, : len(labels)], table[:, place]
    means = among.mean(axis=0)
    others = np.delete(means, place)
    below = (others < means[place] - _EQUAL).sum() + 0.5 * (np.abs(others - means[place]) <= _EQUAL).sum()
    low, high = _rank_interval(among, place, folds.seed)
    best = place if means[place] >= means.max() - _EQUAL else int(means.argmax())
    rows = [column - among[:, best], column - among.mean(axis=1), column - choose(among, folds, place).values]
    rows += [column - table[:, -1]] if none is not None else []
    to_best, to_average, to_nested, *to_none = differences(np.round(np.stack(rows, axis=1), _DIGITS) + 0.0)
    return Standing(
        layers=windows[own].layers,
        name=windows[own].name,
        label=own,
        windows=len(labels),
        rank=1 + int((others > means[place] + _EQUAL).sum()),
        rank_low=low,
        rank_high=high,
        percentile=float(100.0 * below / len(others)),
        best=labels[best],
        to_best=to_best,
        to_none=to_none[0] if to_none else None,
        to_average=to_average,
        to_nested=to_nested,
    )


def _rank_interval(table: NDArray[np.float64], place: int, seed: int) -> tuple[int, int]:
    """Return the least and greatest rank of a column over queries drawn anew, percentile bootstrap."""
    rows, generator = len(table), np.random.default_rng(seed)
    step, parts = max(1, _CELLS // rows), []
    for start in range(0, RESAMPLES, step):
        drawn = generator.multinomial(rows, np.full(rows, 1.0 / rows), size=min(step, RESAMPLES - start))
        means = drawn @ table / rows
        parts.append(1 + (means > means[:, [place]] + _EQUAL).sum(axis=1))
    ranks = np.concatenate(parts)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ranks, [tail, 1 - tail], method="inverted_cdf")
    return int(low), int(high)
