"""How sure a mean over queries is: bootstrap intervals, paired randomisation tests, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
PERMUTATIONS = 50_000
SEED = 0

_EXACT = 14
"""Up to so many queries that differ, all signs are tried."""
_CELLS = 4_000_000
"""Numbers held at once."""
_ROUNDING = 1e-12
"""Difference of two sums of the same numbers, in units of a metric."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries and the interval that the queries leave open.

    Attributes:
        mean: Of the queries at hand.
        low: Lower end of the confidence interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def bootstrap(
    values: NDArray[np.float64],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Estimate]:
    """Estimate means by drawing queries anew, with replacement; the same draws for every column.

    Args:
        values: (n, M), a row per query and a column per mean, n >= 1.
        confidence: Share of such intervals that hold the mean of the queries' source.
        resamples: Draws.
        seed: Equal seeds draw equally.

    Returns:
        M estimates, bias-corrected and accelerated (BCa); where all n values are equal, or n is 1, the interval is
        the mean alone: such data tell nothing of their spread.

    Source: Efron 1987, "Better Bootstrap Confidence Intervals"; as scipy.stats.bootstrap computes it.
    """
    table = np.asarray(values, dtype=np.float64)
    means = table.mean(axis=0)
    drawn = _resampled_means(table, resamples, seed)
    return [
        interval(float(means[column]), drawn[:, column], table[:, column] - means[column], confidence)
        for column in range(table.shape[1])
    ]


def randomisation_test(
    differences: NDArray[np.float64], *, permutations: int = PERMUTATIONS, seed: int = SEED
) -> list[float]:
    """Test whether paired differences have mean 0, by turning the sign of each query's at random.

    Args:
        differences: (n, M), a row per query: the value under one system less that under the other.
        permutations: Drawn where there are too many to try all.
        seed: Equal seeds draw equally.

    Returns:
        M two-sided p values; exact where at most 14 queries differ, else (b + 1) / (permutations + 1).

    Source: Smucker, Allan, Carterette 2007; Phipson and Smyth 2010 for the + 1.
    """
    table = np.asarray(differences, dtype=np.float64)
    return [_two_sided(column[column != 0.0], permutations, seed) for column in table.T]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values of one family so that the chance of any false rejection stays at the level chosen.

    Args:
        p_values: Of all tests that were made.

    Returns:
        Adjusted values in the same order, at most 1.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def interval(
    observed: float, drawn: NDArray[np.float64], influences: NDArray[np.float64], confidence: float = CONFIDENCE
) -> Estimate:
    """Put a BCa interval around a figure of a sample.

    Args:
        observed: The figure of the sample at hand.
        drawn: (resamples,), the figure of samples drawn from it.
        influences: (n,), what each item adds to the figure: of a mean its value less the mean, in general the mean of
            the figures without one item less the figure without this one.
        confidence: Share of such intervals that hold the true figure.

    Returns:
        The figure alone where no item matters, n is 1, or every draw lies on one side.

    Source: Efron 1987, "Better Bootstrap Confidence Intervals".
    """
    spread = float((influences**2).sum())
    above = drawn - observed
    share = float((above < -_ROUNDING).mean() + (above <= _ROUNDING).mean()) / 2
    if len(influences) == 1 or np.ptp(influences) == 0.0 or not 0.0 < share < 1.0:
        return Estimate(observed, observed, observed)
    normal = NormalDist()
    bias = normal.inv_cdf(share)
    acceleration = float((influences**3).sum()) / spread**1.5 / 6
    tails = (normal.inv_cdf((1 - confidence) / 2), normal.inv_cdf((1 + confidence) / 2))
    levels = [normal.cdf(bias + (bias + tail) / (1 - acceleration * (bias + tail))) for tail in tails]
    low, high = np.quantile(drawn, levels)
    return Estimate(observed, float(low), float(high))


def _resampled_means(table: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return (resamples, M)."""
    generator = np.random.default_rng(seed)
    rows, columns = table.shape
    means = np.empty((resamples, columns))
    step = max(1, _CELLS // (rows * columns))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = table[generator.integers(0, rows, (stop - start, rows))].mean(axis=1)
    return means


def _two_sided(differences: NDArray[np.float64], permutations: int, seed: int) -> float:
    """Return the share of sign patterns with a sum at least as far from 0 as the one seen."""
    count = len(differences)
    if count == 0:
        return 1.0
    seen = abs(float(differences.sum())) - count * _ROUNDING
    if count <= _EXACT:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float((np.abs((2 * patterns - 1) @ differences) >= seen).mean())
    generator = np.random.default_rng(seed)
    as_far = 0
    step = max(1, _CELLS // count)
    for start in range(0, permutations, step):
        signs = generator.integers(0, 2, (min(step, permutations - start), count), dtype=np.int8)
        as_far += int((np.abs((2 * signs - 1) @ differences) >= seen).sum())
    return (as_far + 1) / (permutations + 1)
