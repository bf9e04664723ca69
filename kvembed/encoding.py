"""One call of an encoder: tokens go out to the devices, results come back into the order of the input."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kvembed.batching import Batch, Budget, batches_within
from kvembed.config import EncoderConfig
from kvembed.passes import UNKNOWN_LAYER, OverflowPass, StatePass
from kvembed.prompts import PromptedText
from kvembed.throughput import Machine, Runner

_logger = logging.getLogger(__name__)
_STATE_TOKENS = {"cpu": 4096, "cuda": 32768}
_SHARES = 4
"""Of layer states, how many parts each of several devices takes: the last ones even out who is slower."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Vectors of some texts and what it took to get them.

    Attributes:
        vectors: (n, E) float32.
        tokens: (n,) int64, tokens that went through the model, prompt included.
        truncated_tokens: (n,) int64, content tokens that were cut to fit max_length.
        splits: How often a batch was cut in two because it did not fit in the device's memory.
    """

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated_tokens: NDArray[np.int64]
    splits: int = 0


class Sheet:
    """What a call has found out so far.

    Args:
        texts: n, how many there are.
        dimension: E, numbers per vector.
    """

    def __init__(self, texts: int, dimension: int) -> None:
        self.vectors = np.empty((texts, dimension), dtype=np.float32)
        self._tokens = np.zeros(texts, dtype=np.int64)
        self._truncated = np.zeros(texts, dtype=np.int64)
        self._budget = Budget(0)

    def fill(
        self,
        runner: Runner,
        slices: Iterable[Batch],
        batch_tokens: int | None,
        longest: int,
        tell: Callable[[int], object] | None = None,
    ) -> None:
        """Compute the vectors of all texts.

        Args:
            runner: The pass, on its devices.
            slices: All texts, with their positions.
            batch_tokens: As `Runner.run` takes it.
            longest: As `Runner.run` takes it.
            tell: Told how many texts are done more.
        """

        def batches(budget: Budget) -> Iterator[Batch]:
            self._budget = budget
            return batches_within(budget, map(self._noted, slices))

        with closing(runner.run(batches, batch_tokens, longest)) as results:
            for done in results:
                self.vectors[done.positions] = done.values
                if tell is not None:
                    tell(len(done.positions))

    def encoding(self, device: torch.device) -> Encoding:
        """Return everything, and say so if memory ran out on the way."""
        splits, tokens = self._budget.splits, self._budget.tokens
        if splits:
            _logger.warning(
                "%s ran out of memory: %d batches were cut in two and the budget came down to %d padded tokens; "
                "give batch_tokens=%d to spare the attempts",
                *(device, splits, tokens, tokens),
            )
        return Encoding(self.vectors, self._tokens, self._truncated, splits)

    def _noted(self, items: Batch) -> Batch:
        for position, text in items:
            self._tokens[position] = len(text.ids)
            self._truncated[position] = text.truncated_tokens
        return items


def layer_states(
    machine: Machine, texts: Sequence[PromptedText], config: EncoderConfig, batch_tokens: int | None
) -> NDArray[np.float32]:
    """Return each layer's output at the last token of each text, see `last_token_states`.

    Args:
        machine: The weights.
        texts: Any number.
        config: Names the model.
        batch_tokens: Padded tokens per forward pass; None takes 4,096 on a CPU and 32,768 on a GPU.

    Returns:
        (L, n, E) float32.
    """
    facts = machine.facts
    states = np.empty((facts.num_layers, len(texts), facts.dimension), dtype=np.float32)
    own = batch_tokens or _STATE_TOKENS.get(machine.devices[0].type, _STATE_TOKENS["cpu"])
    # A part is a call of its own to find the layers, so one device takes everything at once.
    parts = 1 if len(machine.devices) == 1 else _SHARES * len(machine.devices)
    longest = max((len(text.ids) for text in texts), default=1)
    share = longest * max(1, -(-len(texts) // parts))
    slices = [list(enumerate(texts))]
    runner = machine.bind(StatePass(config.model, own))
    with closing(runner.run(lambda budget: batches_within(budget, slices), share, longest)) as results:
        for done in results:
            states[:, done.positions] = done.values.transpose(1, 0, 2)
    return states


def first_overflow(machine: Machine, layers: tuple[int, ...], prefix_bias: float, text: PromptedText) -> int | None:
    """Return which layer first produced NaN or infinity, see `first_non_finite_layer`."""
    runner = machine.bind(OverflowPass(layers, prefix_bias))
    with closing(runner.run(lambda _: iter([[(0, text)]]), 1, len(text.ids))) as results:
        [done] = results
    layer = int(done.values[0])
    return None if layer == UNKNOWN_LAYER else layer
