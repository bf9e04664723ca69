"""Proof, on a few tokens and before any text, that a loaded model can be re-routed."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from kvembed.errors import UnsupportedModelError
from kvembed.rerouting import Rerouting

_TOKENS = 64
_FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError)


@torch.inference_mode()
def probe(model: PreTrainedModel, name: str, vocabulary: int) -> tuple[int, ...]:
    """Return the layers that can re-route, ascending.

    Three passes over 64 made-up tokens: plain, with another last token, and re-routed in every layer found.

    Args:
        model: Base model loaded with the registered attention.
        name: What an error calls it.
        vocabulary: Size of the tokenizer, special tokens included.

    Raises:
        UnsupportedModelError: the model is not causal, its attention is not in the registry or has parts that
            re-routing does not know, its states overflow, or the tokenizer has ids that it lacks.
    """
    config = model.config.get_text_config(decoder=True)
    ids = torch.arange(1, _TOKENS + 1, device=model.device)[None] % int(config.vocab_size)
    if (positions := getattr(config, "max_position_embeddings", None)) is not None:
        ids = ids[:, : int(positions)]
    last = torch.tensor([ids.shape[1] - 1], device=model.device)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % int(config.vocab_size)
    plain_state = Rerouting(frozenset(), last)
    try:
        plain = model(input_ids=ids, use_cache=False, rerouting=plain_state).last_hidden_state.float()
        other = model(input_ids=changed, use_cache=False, rerouting=Rerouting(frozenset(), last)).last_hidden_state
        layers = tuple(layer for layer in sorted(plain_state.seen) if 0 <= layer < int(config.num_hidden_layers))
        model(input_ids=ids, use_cache=False, rerouting=Rerouting(frozenset(layers), last))
    except _FAILURES as error:
        raise UnsupportedModelError(name, f"it refused a probe of {ids.shape[1]} tokens: {error}") from error
    if not layers:
        reason = "no causal attention layer of it goes through transformers' attention registry; give a decoder"
        raise UnsupportedModelError(name, reason)
    if not torch.isfinite(plain).all():
        reason = f"its states are not finite in {str(model.dtype).removeprefix('torch.')}; use bfloat16 or float32"
        raise UnsupportedModelError(name, reason)
    if not torch.allclose(plain[:, :-1], other[:, :-1].float(), rtol=1e-3, atol=1e-3):
        raise UnsupportedModelError(name, "a later token changes earlier states, so it is not a causal decoder")
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    if vocabulary > rows:
        raise UnsupportedModelError(name, f"its tokenizer has {vocabulary} ids, and it has embeddings for {rows}")
    return layers
