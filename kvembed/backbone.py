"""The frozen decoder under the encoder: loading, checking that it can be re-routed, and one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast
from transformers.utils import logging

from kvembed.errors import ReroutingNotAppliedError, UnsupportedModelError
from kvembed.models import resolve_model
from kvembed.prompts import plain_tokenizer
from kvembed.rerouting import ATTENTION_NAME, Rerouting

AttentionForm = Literal["blend", "concatenated"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A loaded base model and what was found out about it.

    Attributes:
        model: transformers base model in eval mode, without a language-model head.
        tokenizer: The `tokenizers` object, free of padding and truncation.
        dimension: E, size of a hidden state.
        num_layers: Layers of the decoder.
        reroutable: Layers whose attention goes through the registry, ascending.
        max_positions: Longest sequence the model was made for, or None if it does not say.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    dimension: int
    num_layers: int
    reroutable: tuple[int, ...]
    max_positions: int | None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device


def load_backbone(model: str, *, revision: str | None, dtype: str, device: str | torch.device | None) -> Backbone:
    """Load a decoder for re-routing and prove on a probe that it can be served.

    Args:
        model: `kvembed.DEMO_MODEL`, a folder, or a hub id.
        revision: Hub revision.
        dtype: "float32", "bfloat16" or "float16".
        device: torch device; None takes CUDA if there is any, else the CPU.

    Raises:
        ModelNotFoundError: the files cannot be found.
        UnsupportedModelError: not a decoder, no fast tokenizer, or attention outside transformers' registry.
    """
    folder = resolve_model(model, revision)
    target = torch.device(device) if device is not None else default_device()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False):
            raise UnsupportedModelError(model, "it is an encoder-decoder; give a decoder-only language model")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        loaded = _load_quietly(folder, model, dtype)
    except (ValueError, OSError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(model, f"transformers cannot load it: {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModelError(model, "it has no fast tokenizer (tokenizer.json), which character offsets need")
    loaded.eval()  # type: ignore[no-untyped-call]
    base = loaded.requires_grad_(False)
    base.to(target)  # type: ignore[arg-type]
    text_config = base.config.get_text_config(decoder=True)
    reroutable = _probe(base, model)
    return Backbone(
        model=base,
        tokenizer=plain_tokenizer(tokenizer.backend_tokenizer.to_str()),
        dimension=int(text_config.hidden_size),
        num_layers=int(text_config.num_hidden_layers),
        reroutable=reroutable,
        max_positions=getattr(text_config, "max_position_embeddings", None),
    )


def default_device() -> torch.device:
    """Return CUDA if there is any, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def right_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack token ids with padding behind them, where a causal pass never looks back at it.

    Returns:
        Ids (B, T) int64, padded with 0, and last_positions (B,) int64.
    """
    lengths = [len(sequence) for sequence in sequences]
    ids = torch.zeros(len(sequences), max(lengths), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
    last = torch.tensor(lengths, dtype=torch.int64) - 1
    return ids.to(device), last.to(device)


def rerouted_states(
    model: PreTrainedModel,
    ids: Tensor,
    last_positions: Tensor,
    *,
    layers: Sequence[int],
    prefix_bias: float,
    form: AttentionForm = "blend",
) -> Tensor:
    """Run one forward pass with re-routing and prove that it fired.

    Args:
        model: Base model loaded with `attn_implementation=ATTENTION_NAME`.
        ids: (B, T) int64, padded on the right.
        last_positions: (B,) int64, index of each row's last real token.
        layers: Re-routing layers; () is the stock model.
        prefix_bias: b, in nats.
        form: See `Rerouting.form`.

    Returns:
        Final hidden states (B, T, E) after the last norm, in the model's dtype.

    Raises:
        ReroutingNotAppliedError: a chosen layer ran without its extra slot.
    """
    state = Rerouting(frozenset(layers), last_positions, prefix_bias, form)
    states: Tensor = model(input_ids=ids, use_cache=False, rerouting=state).last_hidden_state
    if state.applied != state.layers:
        raise ReroutingNotAppliedError(sorted(state.layers), sorted(state.applied))
    return states


def _load_quietly(folder: Path, name: str, dtype: str) -> PreTrainedModel:
    """Load the base model; a weight that the files lack would be random, so it is an error and no warning."""
    with _quiet_transformers():
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        raise UnsupportedModelError(name, f"its files lack {len(missing)} weights, among them {missing[0]!r}")
    loaded: PreTrainedModel = model
    return loaded


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and listing the unused language-model head; restore the user's settings."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@torch.inference_mode()
def _probe(model: PreTrainedModel, name: str) -> tuple[int, ...]:
    """Return the layers that can re-route; refuse a model that is not causal or does not use the registry."""
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    ids = torch.arange(1, 6, device=model.device)[None] % vocabulary
    changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % vocabulary], dim=1)
    last = torch.tensor([4], device=model.device)
    try:
        state = Rerouting(frozenset(), last)
        plain = model(input_ids=ids, use_cache=False, rerouting=state).last_hidden_state
        other = model(input_ids=changed, use_cache=False, rerouting=Rerouting(frozenset(), last)).last_hidden_state
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnsupportedModelError(name, f"its forward pass refused a probe of 5 tokens: {error}") from error
    if not state.seen:
        raise UnsupportedModelError(
            name, "no causal attention layer of it goes through transformers' attention registry; give a decoder"
        )
    if not torch.allclose(plain[:, :-1].float(), other[:, :-1].float(), rtol=1e-3, atol=1e-3):
        raise UnsupportedModelError(name, "a later token changes earlier states, so it is not a causal decoder")
    return tuple(sorted(state.seen))
