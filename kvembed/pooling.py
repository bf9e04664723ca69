"""Final hidden states of a batch -> one vector per text."""

from __future__ import annotations

import torch
from torch import Tensor

from kvembed.config import Pooling


def pool(states: Tensor, last_positions: Tensor, pooling: Pooling) -> Tensor:
    """Pool the final hidden states of right-padded rows.

    The mean runs over all real tokens, the prompt's included (r).

    Args:
        states: (B, T, E), after the model's last norm, any float dtype.
        last_positions: (B,) int64, index n of each row's last real token; what lies behind it is padding.
        pooling: Hybrid is (h_n + mean_i h_i) / 2.

    Returns:
        (B, E) float32, not normalised.

    Source: KV-Embedding, arXiv 2601.01046, hybrid pooling (r).
    """
    rows = torch.arange(states.shape[0], device=states.device)
    last = states[rows, last_positions].float()
    if pooling is Pooling.LAST_TOKEN:
        return last
    real = torch.arange(states.shape[1], device=states.device)[None, :] <= last_positions[:, None]
    # Padding rows may hold anything, infinities included: select, do not multiply by zero.
    total = torch.where(real[..., None], states, 0).sum(dim=1, dtype=torch.float32)
    mean = total / (last_positions + 1)[:, None]
    return mean if pooling is Pooling.MEAN else (last + mean) / 2
