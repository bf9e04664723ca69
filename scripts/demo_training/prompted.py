"""Token sequences inside the compression prompts, and the vectors the decoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from kvembed.backbone import rerouted_states, right_padded
from kvembed.batching import token_budget_batches
from kvembed.config import EncoderConfig, Pooling
from kvembed.pooling import pool
from kvembed.prompts import Role

CHUNK_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Routing:
    """Where a pass re-routes, and how strongly."""

    layers: tuple[int, ...] = ()
    prefix_bias: float = 1.0


class PromptedTokens:
    """Puts token sequences between the two halves of the encoder's default prompts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        config = EncoderConfig(model="unused")
        templates: dict[Role, str] = {"query": config.query_template, "document": config.document_template}
        self._halves: dict[Role, tuple[list[int], list[int]]] = {}
        for role, template in templates.items():
            before, after = (tokenizer.encode(part.rstrip()).ids for part in template.split("{text}"))
            self._halves[role] = (before, after)

    def wrap(self, tokens: NDArray[np.uint16], role: Role) -> list[int]:
        """Return prompt, tokens, prompt."""
        before, after = self._halves[role]
        return [*before, *tokens.tolist(), *after]


def pooled(model: PreTrainedModel, sequences: list[list[int]], routing: Routing) -> dict[Pooling, Tensor]:
    """Encode sequences under every pooling at once, in chunks of like length.

    Returns:
        Per pooling (n, E) float32 of length 1, in input order.
    """
    chunks = list(token_budget_batches([len(sequence) for sequence in sequences], CHUNK_TOKENS))
    order = torch.tensor([index for chunk in chunks for index in chunk])
    vectors: dict[Pooling, list[Tensor]] = {pooling: [] for pooling in Pooling}
    for chunk in chunks:
        ids, last = right_padded([sequences[index] for index in chunk], model.device)
        states = rerouted_states(model, ids, last, layers=routing.layers, prefix_bias=routing.prefix_bias)
        for pooling, parts in vectors.items():
            parts.append(nn.functional.normalize(pool(states, last, pooling), dim=-1))
    back = torch.argsort(order).to(model.device)
    return {pooling: torch.cat(parts)[back] for pooling, parts in vectors.items()}
