"""Where causal attention and its log-sum-exp come from, per device.

The operators below are less stable than `scaled_dot_product_attention`; nothing outside this file names them.
Dims: B batch, T tokens, H query heads, G KV heads, D head size. Each kernel returns the attention output and the
natural-log log-sum-exp of the scaled logits, which re-routing needs and PyTorch's public function does not give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """One layer's attention, as the model asks for it.

    Attributes:
        query: (B, H, T, D), after rotary embedding.
        key: (B, G, T, D), after rotary embedding.
        value: (B, G, T, D), or of another head size than the key's (multi-head latent attention).
        scale: Factor of the logits, mostly 1/sqrt(D).
        mask: (B or 1, H or 1, T, T), bool (True: may look) or additive (-inf: may not); None means causal.
        softcap: Bound c of logits x -> c tanh(x/c), or None.
        sinks: (H,) logits of a slot without a value (gpt-oss), or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    mask: Tensor | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def groups(self) -> int:
        """Query heads per KV head, H / G."""
        return self.query.shape[1] // self.key.shape[1]


Kernel = Callable[[AttentionInputs], tuple[Tensor, Tensor]]


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
    logits = cap(torch.matmul(_wide(inputs.query), _wide(key).transpose(-1, -2)) * inputs.scale, inputs.softcap)
    return logits + _additive_mask(inputs, logits.dtype)


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Bound logits smoothly to (-softcap, softcap) (Gemma 2); None leaves them."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def math_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Attention by plain matrix products: every device, every option, memory quadratic in T."""
    logits = attention_logits(inputs)
    lse = torch.logsumexp(logits, dim=-1)
    value = inputs.value.repeat_interleave(inputs.groups, dim=1)
    weights = torch.exp(logits - lse[..., None])
    return torch.matmul(weights, _wide(value)).to(inputs.query.dtype), lse


def cpu_flash_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """PyTorch's fused CPU kernel; wants an additive mask in the query's dtype."""
    mask = None if inputs.mask is None else _additive_mask(inputs, inputs.query.dtype)
    size = max(inputs.key.shape[-1], inputs.value.shape[-1])
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        _widened(inputs.query, size),
        _widened(inputs.key, size),
        _widened(inputs.value, size),
        0.0,
        inputs.mask is None,
        attn_mask=mask,
        scale=inputs.scale,
    )
    return output[..., : inputs.value.shape[-1]], lse


def cuda_flash_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """FlashAttention 2 as PyTorch bundles it: half precision, causal, no mask."""
    results = torch.ops.aten._scaled_dot_product_flash_attention(
        inputs.query, inputs.key, inputs.value, 0.0, True, False, scale=inputs.scale
    )
    return results[0], results[1][..., : inputs.query.shape[2]]


def cuda_efficient_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention: also float32 and additive masks; needs equal head counts."""
    key = inputs.key.repeat_interleave(inputs.groups, dim=1)
    value = inputs.value.repeat_interleave(inputs.groups, dim=1)
    bias = None if inputs.mask is None else _aligned_bias(inputs)
    results = torch.ops.aten._scaled_dot_product_efficient_attention(
        inputs.query, key, value, bias, True, 0.0, inputs.mask is None, scale=inputs.scale
    )
    # The kernel pads the log-sum-exp to a multiple of 32 rows.
    return results[0], results[1][..., : inputs.query.shape[2]]


def _kernel_for(inputs: AttentionInputs) -> Kernel:
    query = inputs.query
    # No fused operator caps logits or propagates a gradient through its log-sum-exp.
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or inputs.key.requires_grad)
    if inputs.softcap is not None or needs_gradient:
        return math_attention
    if query.device.type == "cpu":
        return cpu_flash_attention
    if query.device.type == "cuda":
        half = query.dtype in (torch.float16, torch.bfloat16)
        size = query.shape[-1]
        fits_flash = half and inputs.mask is None and size == inputs.value.shape[-1] <= 256 and size % 8 == 0
        return cuda_flash_attention if fits_flash else cuda_efficient_attention
    return math_attention


def _widened(tensor: Tensor, size: int) -> Tensor:
    """Pad the head size with zeros, which add nothing to any product; the fused kernel wants one size for all."""
    return tensor if tensor.shape[-1] == size else torch.nn.functional.pad(tensor, (0, size - tensor.shape[-1]))


def _with_sinks(output: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Add a slot that takes attention but has no value: it only widens the softmax's denominator."""
    if sinks is None:
        return output, lse
    widened = torch.logaddexp(lse, sinks.to(lse.dtype)[None, :, None])
    return (output * torch.exp(lse - widened)[..., None]).to(output.dtype), widened


def _additive_mask(inputs: AttentionInputs, dtype: torch.dtype) -> Tensor:
    """Return 0 where a query may look and -inf elsewhere, (B or 1, H or 1, T, T)."""
    mask = inputs.mask
    if mask is None:
        tokens = inputs.query.shape[2]
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=inputs.query.device).tril()[None, None]
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _aligned_bias(inputs: AttentionInputs) -> Tensor:
    """Expand the mask to (B, H, T, T) over storage whose rows start at multiples of 16, as the kernel demands."""
    batch, heads, tokens, _ = inputs.query.shape
    mask = _additive_mask(inputs, inputs.query.dtype)
    padded = torch.nn.functional.pad(mask, (0, -tokens % 16))
    return padded[..., :tokens].expand(batch, heads, tokens, tokens)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
