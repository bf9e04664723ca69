"""TwoNN against manifolds of known dimension and against scikit-dimension."""

from __future__ import annotations

import numpy as np
import pytest
import skdim

from kvembed import DegenerateStatesError
from kvembed.intrinsic_dimension import intrinsic_dimension


def _plane(dimension: int, *, points: int = 1000, width: int = 20) -> np.ndarray:
    random = np.random.default_rng(dimension)
    basis = np.linalg.qr(random.normal(size=(width, width)))[0][:dimension]
    return (random.uniform(size=(points, dimension)) @ basis).astype(np.float32)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_twonn_recovers_dimension_of_flat_plane(dimension: int) -> None:
    assert intrinsic_dimension(_plane(dimension)) == pytest.approx(dimension, rel=0.15)


@pytest.mark.parametrize("dimension", [2, 5, 12])
def test_twonn_equals_scikit_dimension(dimension: int) -> None:
    states = _plane(dimension)
    expected = skdim.id.TwoNN(discard_fraction=0.1).fit(states.astype(np.float64)).dimension_
    assert intrinsic_dimension(states) == pytest.approx(expected, rel=1e-3)


def test_twonn_ignores_offset_and_scale() -> None:
    """Hidden states sit far from the origin; near neighbours must not drown in rounding."""
    states = _plane(4).astype(np.float64)
    assert intrinsic_dimension(states * 1e-3 + 1e3) == pytest.approx(intrinsic_dimension(states), rel=1e-3)


def test_twonn_counts_repeated_rows_once() -> None:
    states = _plane(3, points=300)
    assert intrinsic_dimension(np.concatenate([states, states[:100]])) == intrinsic_dimension(states)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((50, 4), dtype=np.float32), "1 distinct states; a dimension needs at least 3"),
        (np.full((5, 4), np.nan, dtype=np.float32), "NaN or infinity"),
        (np.zeros(4, dtype=np.float32), r"shape \(4,\)"),
        (np.eye(5, dtype=np.float32), "equally far"),
    ],
)
def test_twonn_of_degenerate_states_is_an_error(states: np.ndarray, message: str) -> None:
    with pytest.raises(DegenerateStatesError, match=message):
        intrinsic_dimension(states)
