"""Key-value re-routing: every query may also attend to the last real token of its own sequence.

In a re-routing layer the pair (k_n, v_n) of the last real token n becomes one extra slot whose logit gets a constant
b, the prefix bias. With o_i and L_i the ordinary causal output and its log-sum-exp, and s_i = q_i.k_n * scale + b,

    out_i = (1 - beta_i) * o_i + beta_i * v_n,    beta_i = sigmoid(s_i - L_i),

which equals the softmax over the concatenated slots exactly. The slot keeps the rotary phase of position n (r), is
shared by the query heads of its KV head, and is outside any sliding window; soft-capping comes before b.

The function below sits in transformers' attention registry, so one piece of code serves many architectures. Its state
travels as a keyword of the model's call: no global, no patched weights, safe in threads. Without that keyword the
model is the stock one.

Source: KV-Embedding, arXiv 2601.01046; values marked (r) rest on public re-implementations that agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from kvembed.kernels import AttentionInputs, attention_logits, attention_with_lse, cap

ATTENTION_NAME = "kv_rerouting"
"""Name in transformers' registry: `AutoModel.from_pretrained(..., attn_implementation=ATTENTION_NAME)`."""


@dataclass(slots=True)
class Rerouting:
    """What one forward call re-routes; pass it as `model(..., rerouting=Rerouting(...))`.

    Attributes:
        layers: Layers that get the extra slot.
        last_positions: (B,) int64, index n of each row's last real token; rows are padded on the right.
        prefix_bias: Constant b added to the slot's logit, in nats.
        form: "blend" is the exact fused form; "concatenated" builds the extra slot literally. The second is the
            reference the first is tested against; both propagate gradients.
        applied: Layers that were re-routed, filled by the call.
        seen: All layers that went through the registered attention, filled by the call.
    """

    layers: frozenset[int]
    last_positions: Tensor
    prefix_bias: float = 1.0
    form: Literal["blend", "concatenated"] = "blend"
    applied: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)


def rerouted_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    rerouting: Rerouting | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention of one layer with the signature that transformers' registry calls.

    Args:
        module: The attention layer; its `layer_idx` decides whether it re-routes.
        query: (B, H, T, D).
        key: (B, G, T, D).
        value: (B, G, T, D).
        attention_mask: (B or 1, 1, T, T) bool or additive, or None for causal.
        scaling: Factor of the logits; None means 1/sqrt(D).
        dropout: Attention dropout, 0 outside training.
        softcap: Soft cap of the logits (Gemma 2).
        s_aux: (H,) attention sinks (gpt-oss).
        rerouting: State of this call; None runs the stock attention.
        **options: Further keywords of the registry.

    Returns:
        (B, T, H, D) and None, since no attention weights are kept.

    Raises:
        ValueError: the layer's attention has a part that re-routing does not know.
    """
    _refuse_foreign(query, key, options)
    layer = getattr(module, "layer_idx", None)
    if rerouting is not None and layer is not None and getattr(module, "is_causal", True):
        rerouting.seen.add(layer)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    inputs = AttentionInputs(query, key, value, scale, attention_mask, softcap, s_aux)
    if rerouting is not None and layer in rerouting.layers:
        form = concatenated_attention if rerouting.form == "concatenated" else blended_attention
        output = form(inputs, rerouting.last_positions, rerouting.prefix_bias)
        rerouting.applied.add(layer)
    elif softcap is None and s_aux is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling)
    else:
        output = attention_with_lse(inputs)[0]
    return output.transpose(1, 2).contiguous(), None


def _refuse_foreign(query: Tensor, key: Tensor, options: Mapping[str, object]) -> None:
    """Tensors beyond the usual change the result (sparse indices, position biases); they must not be dropped."""
    foreign = sorted(name for name, value in options.items() if isinstance(value, Tensor) and name != "position_ids")
    if foreign:
        raise ValueError(f"its attention also takes {', '.join(foreign)}, which re-routing does not know")
    if key.shape[2] != query.shape[2]:
        raise ValueError(f"its attention has {key.shape[2]} keys for {query.shape[2]} tokens")


def blended_attention(inputs: AttentionInputs, last_positions: Tensor, prefix_bias: float) -> Tensor:
    """Re-route through the identity: one dot product and one blend per query on top of any causal kernel.

    Args:
        inputs: The layer's attention.
        last_positions: (B,) int64.
        prefix_bias: b, in nats; -inf returns the plain attention.

    Returns:
        (B, H, T, D) in the query's dtype; the blend itself runs in float32.
    """
    output, lse = attention_with_lse(inputs)
    slot_logits, slot_value = _slot(inputs, last_positions)
    share = torch.sigmoid(slot_logits + prefix_bias - lse)[..., None]
    return torch.lerp(output.to(share.dtype), slot_value.to(share.dtype), share).to(output.dtype)


def concatenated_attention(inputs: AttentionInputs, last_positions: Tensor, prefix_bias: float) -> Tensor:
    """Re-route by the definition: the extra slot is concatenated in front and the softmax runs over all slots.

    Takes and returns what `blended_attention` does; memory is quadratic in T.
    """
    slot_logits, slot_value = _slot(inputs, last_positions)
    columns = [(slot_logits + prefix_bias)[..., None], attention_logits(inputs)]
    if inputs.sinks is not None:
        sinks = inputs.sinks.to(slot_logits.dtype)[None, :, None, None]
        columns.append(sinks.expand(*slot_logits.shape, 1))
    tokens = inputs.query.shape[2]
    weights = torch.softmax(torch.cat(columns, dim=-1), dim=-1)[..., : tokens + 1]
    value = inputs.value.repeat_interleave(inputs.groups, dim=1)
    values = torch.cat([slot_value, value], dim=2).to(weights.dtype)  # (B, H, T+1, D)
    return torch.matmul(weights, values).to(inputs.query.dtype)


def _slot(inputs: AttentionInputs, last_positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return capped slot logits without b (B, H, T) and slot values (B, H, 1, D)."""
    batch, heads, tokens, size = inputs.query.shape
    kv_heads = inputs.key.shape[1]
    index = last_positions.view(batch, 1, 1, 1)
    key = torch.take_along_dim(inputs.key, index.expand(batch, kv_heads, 1, size), dim=2)
    value = torch.take_along_dim(inputs.value, index.expand(batch, kv_heads, 1, inputs.value.shape[-1]), dim=2)
    wide = torch.float64 if inputs.query.dtype == torch.float64 else torch.float32
    # The heads of one group are neighbours, so (G, H/G * T) queries meet one key each without copying it.
    grouped = inputs.query.reshape(batch, kv_heads, -1, size).to(wide)
    logits = torch.matmul(grouped, key.to(wide).transpose(-1, -2)).view(batch, heads, tokens)
    return cap(logits * inputs.scale, inputs.softcap), value.repeat_interleave(inputs.groups, dim=1)


AttentionInterface.register(ATTENTION_NAME, rerouted_attention)
# Without a mask function of the same name transformers passes no mask at all, also where a sliding window is
# shorter than the text.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
