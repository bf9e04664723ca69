"""Where causal attention and its log-sum-exp come from, per device.

The operators behind this file are less stable than `scaled_dot_product_attention`; only kvembed/cpu_kernels.py and
kvembed/cuda_kernels.py name them, and only this file chooses. Each kernel returns the attention output and the
natural-log log-sum-exp of the scaled logits, which re-routing needs and PyTorch's public function does not give.
Dims: B batch, T tokens, H query heads, G KV heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvembed.attention_inputs import AttentionInputs, additive, cap, wide
from kvembed.cpu_kernels import blockwise_matrix_attention, cpu_attention
from kvembed.cuda_kernels import cuda_attention

Kernel = Callable[[AttentionInputs], tuple[Tensor, Tensor]]

_KERNELS: dict[str, Kernel] = {"cpu": cpu_attention, "cuda": cuda_attention}


def attention_with_lse(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Run masked attention on the fastest kernel that computes it exactly.

    Returns:
        Output (B, H, T, D of the value) in the query's dtype and log-sum-exp (B, H, T), float32 or, for float64
        input, float64.
    """
    output, lse = _kernel_for(inputs)(inputs)
    return _with_sinks(output, lse, inputs.sinks)


def attention_logits(inputs: AttentionInputs) -> Tensor:
    """Return scaled, capped and masked logits (B, H, T, T), float32 at least."""
    key = inputs.key.repeat_interleave(inputs.groups, dim=1)
    logits = cap(torch.matmul(wide(inputs.query), wide(key).transpose(-1, -2)) * inputs.scale, inputs.softcap)
    return logits + additive(inputs.visibility(), logits.dtype)


def math_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Attention by plain matrix products: every device, every option, gradients too; memory quadratic in T."""
    logits = attention_logits(inputs)
    lse = torch.logsumexp(logits, dim=-1)
    value = inputs.value.repeat_interleave(inputs.groups, dim=1)
    weights = torch.exp(logits - lse[..., None])
    return torch.matmul(weights, wide(value)).to(inputs.query.dtype), lse


def _kernel_for(inputs: AttentionInputs) -> Kernel:
    # No fused operator propagates a gradient through its log-sum-exp.
    tensors = (inputs.query, inputs.key, inputs.value)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return math_attention
    return _KERNELS.get(inputs.query.device.type, blockwise_matrix_attention)


def _with_sinks(output: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Add a slot that takes attention but has no value: it only widens the softmax's denominator."""
    if sinks is None:
        return output, lse
    widened = torch.logaddexp(lse, sinks.to(lse.dtype)[None, :, None])
    return (output * torch.exp(lse - widened)[..., None]).to(output.dtype), widened
