"""Pooling reads real tokens only."""

from __future__ import annotations

import pytest
import torch

from kvembed.config import Pooling
from kvembed.pooling import pool

STATES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[5.0, 7.0], [0.0, 0.0], [0.0, 0.0]]])
LAST = torch.tensor([1, 0])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.LAST_TOKEN, [[3.0, 6.0], [5.0, 7.0]]),
        (Pooling.MEAN, [[2.0, 4.0], [5.0, 7.0]]),
        (Pooling.HYBRID, [[2.5, 5.0], [5.0, 7.0]]),
    ],
)
def test_pool_of_padded_rows_equals_hand_computation(pooling: Pooling, expected: list[list[float]]) -> None:
    assert torch.equal(pool(STATES, LAST, pooling), torch.tensor(expected))


@pytest.mark.parametrize("pooling", list(Pooling))
def test_pool_with_infinite_padding_stays_finite(pooling: Pooling) -> None:
    """Padding may overflow in half precision; it must not leak into the mean."""
    states = STATES.clone()
    states[0, 2] = torch.inf
    states[1, 1:] = torch.nan
    assert torch.equal(pool(states, LAST, pooling), pool(STATES, LAST, pooling))
