"""Several texts end to end in one row: no padding to compute, and no token that sees another text.

Positions start again with each text, and attention keeps to it through `Rerouting.packing`. Whatever else mixes tokens
(recurrences, convolutions, positions that are counted and not given) would run across the seams; `can_pack` finds out.
Dims: N texts, T tokens of all of them, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kvembed.attention_inputs import Packing
from kvembed.backbone import rerouted_states, right_padded
from kvembed.config import Pooling
from kvembed.errors import ReroutingNotAppliedError
from kvembed.rerouting import Rerouting

# The shortest that show a leak into a first, a middle and a last token, and a text of one token.
_PROBE_LENGTHS = (9, 1, 14, 6)
# Norm of the difference over norm, worst token: rounding stays far below, a leak far above.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_TOLERANCE = 0.05
_FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError)


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Texts as one row of a model's input.

    Attributes:
        ids: (1, T) int64.
        positions: (1, T) int64, counted from 0 in each text.
        packing: Where each text lies.
    """

    ids: Tensor
    positions: Tensor
    packing: Packing


def pack(sequences: Sequence[Sequence[int]], device: torch.device) -> PackedRow:
    """Lay token ids end to end.

    Args:
        sequences: At least one text, each of at least one token.
        device: Where the model is.

    Raises:
        ValueError: there is no text, or one without a token.
    """
    lengths = tuple(len(sequence) for sequence in sequences)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"texts of {lengths} tokens cannot be packed; give at least one, each with a token")
    ids = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
    positions = torch.cat([torch.arange(length) for length in lengths])
    return PackedRow(ids[None].to(device), positions[None].to(device), Packing(lengths, device))


def packed_states(model: PreTrainedModel, row: PackedRow, *, layers: Sequence[int], prefix_bias: float) -> Tensor:
    """Run one forward pass over packed texts and prove that re-routing fired.

    Args:
        model: Base model loaded with `attn_implementation=ATTENTION_NAME`, for which `can_pack` is true.
        row: The texts.
        layers: Re-routing layers; () is the stock model.
        prefix_bias: b, in nats.

    Returns:
        Final hidden states (T, E) after the last norm, in the model's dtype.

    Raises:
        ReroutingNotAppliedError: a chosen layer ran without its extra slot.
        ValueError: the model brings a mask of its own, which packed texts cannot be added to.
    """
    state = Rerouting(frozenset(layers), row.packing.last_positions, prefix_bias, packing=row.packing)
    states: Tensor = model(
        input_ids=row.ids,
        # Without it transformers takes restarting positions for its own packed form and builds a T x T mask.
        attention_mask=torch.ones_like(row.ids, dtype=torch.bool),
        position_ids=row.positions,
        use_cache=False,
        rerouting=state,
    ).last_hidden_state[0]
    if state.applied != state.layers:
        raise ReroutingNotAppliedError(sorted(state.layers), sorted(state.applied))
    return states


def pool_packed(
    states: Tensor, packing: Packing, pooling: Pooling, spans: Sequence[tuple[int, int]] | None = None
) -> Tensor:
    """Pool the final hidden states of packed texts as `kvembed.pooling.pool` does those of padded rows.

    Args:
        states: (T, E), after the model's last norm, any float dtype.
        packing: Where each text lies.
        pooling: Hybrid is (h_n + mean_i h_i) / 2.
        spans: Per text, its first token that counts and the one behind its last; None counts them all.

    Returns:
        (N, E) float32, not normalised.
    """
    bounds = list(packing.spans())
    counted = states
    if spans is not None:
        bounds = [(start + first, start + stop) for (start, _), (first, stop) in zip(bounds, spans, strict=True)]
        counted = states[torch.cat([torch.arange(*bound) for bound in bounds]).to(states.device)]
    last = states[torch.tensor([stop - 1 for _, stop in bounds], device=states.device)].float()
    if pooling is Pooling.LAST_TOKEN:
        return last
    lengths = torch.tensor([stop - start for start, stop in bounds], device=states.device)
    mean = torch.segment_reduce(counted.float(), "sum", lengths=lengths) / lengths[:, None]
    return mean if pooling is Pooling.MEAN else (last + mean) / 2


@torch.inference_mode()
def can_pack(model: PreTrainedModel, layers: Sequence[int] = ()) -> bool:
    """Prove on 30 made-up tokens that packed texts get the states of padded ones.

    Args:
        model: Base model loaded with `attn_implementation=ATTENTION_NAME`.
        layers: Layers to re-route in the proof, best those that will.

    Returns:
        Whether every token's state is the same, within rounding; False if the model refuses a packed row.
    """
    config = model.config.get_text_config(decoder=True)
    # Chunks are counted from the row's start, and one longer than the proof would not show in it.
    if getattr(config, "attention_chunk_size", None) is not None:
        return False
    tokens = torch.arange(2, 2 + sum(_PROBE_LENGTHS)) % int(config.vocab_size)
    texts = [text.tolist() for text in torch.split(tokens, list(_PROBE_LENGTHS))]
    try:
        packed = packed_states(model, pack(texts, model.device), layers=layers, prefix_bias=1.0).float()
        padded = rerouted_states(model, *right_padded(texts, model.device), layers=layers, prefix_bias=1.0)
    except torch.OutOfMemoryError:
        raise
    except _FAILURES:
        return False
    expected = torch.cat([states[:length] for states, length in zip(padded, _PROBE_LENGTHS, strict=True)]).float()
    error = (packed - expected).norm(dim=-1) / expected.norm(dim=-1)
    return bool((error <= _TOLERANCE.get(model.dtype, _HALF_TOLERANCE)).all())
