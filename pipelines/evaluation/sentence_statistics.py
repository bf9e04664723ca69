"""Correlation, accuracy and macro-F1 of a sample, of samples drawn from it, and of two systems that trade answers.

What a figure needs to know of the items adds up: of a correlation five sums, of F1 three counts a label. A drawn sample
is a weight per item, so its figure comes from a matrix product, and so does that of two systems some of whose answers
were traded. Ranks do not add up; those of a drawn sample come from its cumulated weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.evaluation.statistics import PERMUTATIONS, RESAMPLES, SEED, Estimate, interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXACT = 14
_CELLS = 4_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one system's answers.

    Attributes:
        table: (n, K), what each item adds to the K sums.
        of_sums: (D, K) sums -> (D,) figures; NaN where a sample has none.
        ranked: (n,) twice, answers and gold, where drawn samples are ranked anew.
    """

    table: NDArray[np.float64]
    of_sums: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ranked: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def value(self) -> float:
        """Of the items at hand."""
        return float(self.of_sums(self.table.sum(axis=0, keepdims=True))[0])

    def drawn(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the figures of samples in which each item stands so often.

        Args:
            weights: (D, n), whole numbers.

        Returns:
            (D,).
        """
        if self.ranked is None:
            return self.of_sums(weights @ self.table)
        first, second = (_midranks(values, weights) for values in self.ranked)
        products = (first * first, second * second, first * second)
        return _correlation(*((weights * product).sum(axis=1) for product in products))


def spearman(answers: NDArray[np.float64], gold: NDArray[np.float64]) -> Figure:
    """Correlate ranks, tied values at their mean rank.

    Args:
        answers: (n,) float.
        gold: (n,) float.
    """
    once = np.ones((1, len(gold)))
    ranks = [_midranks(values, once)[0] for values in (answers, gold)]
    return Figure(pearson(*ranks).table, _correlation_of_sums, ranked=(answers, gold))


def pearson(answers: NDArray[np.float64], gold: NDArray[np.float64]) -> Figure:
    """Correlate values. Both are scaled first, so that two systems of different scales may trade answers."""
    first, second = _scaled(answers), _scaled(gold)
    table = np.stack([np.ones_like(first), first, second, first**2, second**2, first * second], axis=1)
    return Figure(table, _correlation_of_sums)


def accuracy(answers: Sequence[str], gold: Sequence[str]) -> Figure:
    """Return the share of right answers."""
    right = np.array([answer == label for answer, label in zip(answers, gold, strict=True)], dtype=np.float64)
    return Figure(np.stack([right, np.ones_like(right)], axis=1), lambda sums: sums[:, 0] / sums[:, 1])


def macro_f1(answers: Sequence[str], gold: Sequence[str], labels: Sequence[str]) -> Figure:
    """Return the mean F1 over the labels that are in the sample, as gold or as answer.

    Args:
        answers: One per item.
        gold: The same.
        labels: All that may come up, each once; systems that are compared have the same.
    """
    every = np.array(labels)
    given, right = (np.array(column)[:, None] == every for column in (answers, gold))
    return Figure(np.hstack([given & right, given, right]).astype(np.float64), _macro_f1_of_sums)


def estimates(
    figures: Sequence[Figure], *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[list[Estimate], NDArray[np.float64], NDArray[np.float64]]:
    """Estimate figures by drawing the items anew, with replacement; the same draws for every figure.

    Args:
        figures: M of the same n items.
        resamples: Draws. One in which a figure does not exist, for all its items are alike, does not count for it.
        seed: Equal seeds draw equally.

    Returns:
        M estimates with BCa intervals; (resamples, M) drawn figures; (n, M) figures without each item.
    """
    items = len(figures[0].table)
    drawn = np.vstack([_columns(figures, weights) for weights in _draws(items, resamples, seed)])
    without = np.vstack([_columns(figures, weights) for weights in _left_out(items)])
    found = [_estimate(figure.value, drawn[:, place], without[:, place]) for place, figure in enumerate(figures)]
    return found, drawn, without


def difference(first: float, second: float, drawn: NDArray[np.float64], without: NDArray[np.float64]) -> Estimate:
    """Estimate by how much a second figure is above a first, from the same draws of both.

    Args:
        first: Of the items at hand.
        second: The same.
        drawn: (resamples, 2), as `estimates` draws them.
        without: (n, 2), the same without each item.
    """
    return _estimate(second - first, drawn[:, 1] - drawn[:, 0], without[:, 1] - without[:, 0])


def trading_test(first: Figure, second: Figure, *, permutations: int = PERMUTATIONS, seed: int = SEED) -> float:
    """Test whether two systems are interchangeable, by trading their answers to each item at random.

    Ranks and scaled values are traded as they are among all items; a correlation of them that were traded is Pearson's.

    Args:
        first: A metric of one system.
        second: The same of the other, on the same items.
        permutations: Drawn where there are too many to try all.
        seed: Equal seeds draw equally.

    Returns:
        Two-sided p value of the difference; exact where at most 14 items differ, else (b + 1) / (permutations + 1).
    """
    change = second.table - first.table
    change = change[(change != 0.0).any(axis=1)]
    seen = abs(second.value - first.value) - _ROUNDING
    count = len(change)
    if count == 0:
        return 1.0

    def as_far(traded: NDArray[np.float64]) -> NDArray[np.bool_]:
        moved = traded @ change
        sums = [figure.table.sum(axis=0) for figure in (first, second)]
        return np.abs(first.of_sums(sums[1] - moved) - first.of_sums(sums[0] + moved)) >= seen

    if count <= _EXACT:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(as_far(patterns.astype(np.float64)).mean())
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // count)
    sizes = [min(step, permutations - start) for start in range(0, permutations, step)]
    further = sum(int(as_far(generator.integers(0, 2, (size, count)).astype(np.float64)).sum()) for size in sizes)
    return (further + 1) / (permutations + 1)


def _columns(figures: Sequence[Figure], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([figure.drawn(weights) for figure in figures], axis=1)


def _estimate(value: float, drawn: NDArray[np.float64], without: NDArray[np.float64]) -> Estimate:
    there, known = drawn[np.isfinite(drawn)], without[np.isfinite(without)]
    if not len(there) or not len(known):
        return Estimate(value, value, value)
    return interval(value, there, known.mean() - known)


def _draws(items: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield (D, n) weights; the same draws as `bootstrap` makes."""
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // items)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        chosen = generator.integers(0, items, (size, items)) + items * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * items).reshape(size, items).astype(np.float64)


def _left_out(items: int) -> Iterator[NDArray[np.float64]]:
    step = max(1, _CELLS // items)
    for start in range(0, items, step):
        places = np.arange(start, min(start + step, items))
        weights = np.ones((len(places), items))
        weights[np.arange(len(places)), places] = 0.0
        yield weights


def _midranks(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (D, n) mean ranks of each item among the drawn ones, less the mean of all ranks."""
    _, groups, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    below = np.cumsum(counts, axis=1) - counts
    ranks: NDArray[np.float64] = (below + (counts - weights.sum(axis=1, keepdims=True)) / 2)[:, groups]
    return ranks


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return centred / spread if spread else np.zeros_like(centred)


def _correlation_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    count, x, y, xx, yy, xy = sums.T
    return _correlation(xx - x * x / count, yy - y * y / count, xy - x * y / count)


def _correlation(xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = np.sqrt(np.maximum(xx, 0.0) * np.maximum(yy, 0.0))
    exists = spread > _ROUNDING
    return np.where(exists, xy / np.where(exists, spread, 1.0), np.nan)


def _macro_f1_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    both, given, right = np.split(sums, 3, axis=1)
    there = given + right
    f1 = np.where(there > 0.0, 2.0 * both / np.where(there > 0.0, there, 1.0), np.nan)
    found: NDArray[np.float64] = np.nanmean(f1, axis=1)
    return found
