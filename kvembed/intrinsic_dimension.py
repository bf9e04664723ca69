"""TwoNN: how many directions a cloud of points varies in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvembed.errors import DegenerateStatesError

_DISCARDED = 0.1
"""Share of the largest ratios that the regression leaves out: few neighbours far away bend the line."""
_BLOCK = 512


def intrinsic_dimension(states: NDArray[np.float32]) -> float:
    """Estimate how many directions one layer's states vary in.

    TwoNN, regression form: for each point the ratio mu = r2 / r1 of the distances to its second and first neighbour
    follows a Pareto law whose exponent is the dimension, so -log(1 - F(mu)) against log(mu) is a line through the
    origin. The top tenth of mu is dropped, and F of the i-th smallest of N ratios is i / N.

    Args:
        states: (n, E), one last-token state per text; repeated rows count once, at least 3 distinct.

    Returns:
        Dimension, unitless, > 0.

    Raises:
        DegenerateStatesError: fewer than 3 distinct rows, non-finite values, or all ratios equal to 1.

    Source: Facco, d'Errico, Rodriguez, Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information"; same estimator as scikit-dimension's TwoNN.
    """
    ratios = np.sort(_neighbour_ratios(states))
    kept = max(2, int(len(ratios) * (1 - _DISCARDED)))
    log_ratio = np.log(ratios[:kept])
    log_survival = -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    spread = float(log_ratio @ log_ratio)
    slope = float(log_ratio @ log_survival) / spread if spread > 0 else 0.0
    if slope <= 0:
        raise DegenerateStatesError("the two nearest neighbours of every state are equally far; take other texts")
    return slope


def _neighbour_ratios(states: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return r2 / r1 >= 1 for every distinct row, (m,)."""
    if states.ndim != 2:
        raise DegenerateStatesError(f"states has shape {states.shape}; it must be (n, E)")
    if not np.isfinite(states).all():
        raise DegenerateStatesError('states hold NaN or infinity; float16 overflows on many models, use "float32"')
    points = np.unique(np.asarray(states, dtype=np.float64), axis=0)
    # Hidden states share a large mean, which the products of `_two_nearest` would cancel badly.
    points -= points.mean(axis=0)
    if len(points) < 3:
        raise DegenerateStatesError(f"{len(points)} distinct states; a dimension needs at least 3, better 1,000")
    nearest = np.concatenate([_two_nearest(points, start) for start in range(0, len(points), _BLOCK)])
    ratios: NDArray[np.float64] = nearest[:, 1] / nearest[:, 0]
    return ratios


def _two_nearest(points: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Distances (b, 2) of a block of rows to their first and second neighbour."""
    block = points[start : start + _BLOCK]
    gram = block @ points.T
    squared = (block**2).sum(axis=1)[:, None] + (points**2).sum(axis=1)[None, :] - 2 * gram
    squared[np.arange(len(block)), start + np.arange(len(block))] = np.inf
    candidates = np.argpartition(squared, min(3, len(points) - 1), axis=1)[:, :4]
    # The expansion above cancels for near neighbours; the few candidates are measured again by their differences.
    exact = np.linalg.norm(points[candidates] - block[:, None, :], axis=2)
    exact[candidates == (start + np.arange(len(block)))[:, None]] = np.inf
    return np.sort(exact, axis=1)[:, :2]
