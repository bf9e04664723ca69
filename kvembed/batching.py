"""Batches of similar length under a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group sequences so that a batch, padded to its longest, holds at most `budget` tokens.

    Longest first, so that the largest batch, the one that may not fit in memory, comes at the start.

    Args:
        lengths: Tokens of each sequence.
        budget: Padded tokens per batch; a single longer sequence still gets a batch of its own.

    Yields:
        Indices into `lengths`; each index exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
