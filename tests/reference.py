"""An independent, eager form of key-value re-routing, and random models of many architectures to compare on.

Written from the definition: one text at a time, no padding, no fused kernel, no log-sum-exp, every slot of every query
spelled out. It shares with the package only transformers' projections and rotary embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel, PreTrainedModel

REFERENCE_NAME = "eager_rerouting_reference"


@dataclass
class _State:
    layers: frozenset[int] = frozenset()
    bias: float = 0.0
    calls: int = 0


_state = _State()


@contextmanager
def rerouting_in(layers: tuple[int, ...], bias: float) -> Iterator[_State]:
    """Make reference models re-route in these layers for a while."""
    _state.layers, _state.bias, _state.calls = frozenset(layers), bias, 0
    yield _state
    _state.layers = frozenset()


def reference_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend query by query, head by head; (1, H, T, D) in, (1, T, H, D) out."""
    heads, tokens, size = query.shape[1:]
    group = heads // key.shape[1]
    # Some models hand their window over as a keyword, others keep it on the layer or only in their configuration.
    window = sliding_window or _window_of(module)
    scale = scaling if scaling is not None else 1 / math.sqrt(size)
    output = torch.zeros(1, tokens, heads, value.shape[-1], dtype=torch.float64)
    for head in range(heads):
        q, k, v = query[0, head].double(), key[0, head // group].double(), value[0, head // group].double()
        for i in range(tokens):
            start = 0 if not window else max(0, i - window + 1)
            slots = [k[j] for j in range(start, i + 1)]
            values = [v[j] for j in range(start, i + 1)]
            logits = [_capped(float(q[i] @ slot) * scale, softcap) for slot in slots]
            if module.layer_idx in _state.layers:
                logits.insert(0, _capped(float(q[i] @ k[-1]) * scale, softcap) + _state.bias)
                values.insert(0, v[-1])
            if s_aux is not None:
                logits.append(float(s_aux[head]))
                values.append(torch.zeros_like(v[0]))
            weights = torch.softmax(torch.tensor(logits, dtype=torch.float64), dim=0)
            output[0, i, head] = torch.stack(values).T @ weights
    _state.calls += module.layer_idx in _state.layers
    return output.to(query.dtype), None


def _capped(logit: float, softcap: float | None) -> float:
    return logit if softcap is None else softcap * math.tanh(logit / softcap)


def _window_of(module: nn.Module) -> int | None:
    return getattr(module, "sliding_window", None)


AttentionInterface.register(REFERENCE_NAME, reference_attention)

_SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS = {"head_dim": 16}

ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "Llama": ("llama", {}),
    "Mistral, window shorter than the text": ("mistral", {"sliding_window": 5}),
    "Mistral, window longer than the text": ("mistral", {"sliding_window": 64}),
    "Qwen2": ("qwen2", {}),
    "Qwen3": ("qwen3", _HEADS),
    "Gemma 2, soft-cap, window": ("gemma2", {**_HEADS, "sliding_window": 6, "query_pre_attn_scalar": 24}),
    "Gemma 3, window": ("gemma3_text", {**_HEADS, "sliding_window": 6}),
    "Phi-3": ("phi3", {}),
    "OLMo 2": ("olmo2", {}),
    "Granite, own scale": ("granite", {"attention_multiplier": 0.5}),
    "Mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": None}),
    "gpt-oss, sinks, window": ("gpt_oss", {**_HEADS, "num_local_experts": 4, "sliding_window": 6}),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-2, learned positions": ("gpt2", {}),
    "OPT, learned positions": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 48}),
    "DeepSeek-V3, values of another head size": (
        "deepseek_v3",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
    ),
}
"""Name for the table -> (transformers model type, fields that differ from the small common shape)."""


def random_models(name: str, *, attention: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Build two models of the same random weights: the given attention, and the reference."""
    model_type, fields = ARCHITECTURES[name]
    ours = _build(model_type, fields, attention)
    reference = _build(model_type, fields, REFERENCE_NAME)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def stock_model(name: str, like: PreTrainedModel, *, attention: str) -> PreTrainedModel:
    """Build transformers' own model with the weights of another."""
    model_type, fields = ARCHITECTURES[name]
    stock = _build(model_type, fields, attention)
    stock.load_state_dict(like.state_dict())
    return stock


def _build(model_type: str, fields: dict[str, object], attention: str) -> PreTrainedModel:
    torch.manual_seed(11)
    config = AutoConfig.for_model(model_type, **{**_SMALL, **fields})
    model = AutoModel.from_config(config, attn_implementation=attention).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    return model.requires_grad_(False)


@torch.inference_mode()
def reference_states(model: PreTrainedModel, row: list[int], *, layers: tuple[int, ...], bias: float) -> Tensor:
    """Final hidden states (T, E) of one unpadded text."""
    with rerouting_in(layers, bias) as state:
        states = model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
    if state.calls != len(layers):
        raise AssertionError(f"the reference ran in {state.calls} layers, not {len(layers)}")
    return states
