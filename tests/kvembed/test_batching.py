"""Batches hold every sequence once and keep their budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvembed.batching import token_budget_batches


@given(lengths=st.lists(st.integers(1, 50), max_size=60), budget=st.integers(1, 200))
def test_batches_cover_every_index_once_within_budget(lengths: list[int], budget: int) -> None:
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_batches_start_with_the_longest(lengths: list[int]) -> None:
    flat = [lengths[index] for batch in token_budget_batches(lengths, 64) for index in batch]
    assert flat == sorted(lengths, reverse=True)
