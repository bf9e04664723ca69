"""The frozen decoder under the encoder: loading, checking that it can be re-routed, and one forward pass."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast
from transformers.utils import logging

from kvembed.config import EncoderConfig
from kvembed.errors import ConfigError, ReroutingNotAppliedError, UnsupportedModelError
from kvembed.models import ModelHashes, model_hashes, pinned_revision, resolve_model
from kvembed.probe import probe
from kvembed.prompts import plain_tokenizer
from kvembed.quantization import Quantization, quantized_loading
from kvembed.rerouting import ATTENTION_NAME, Rerouting

AttentionForm = Literal["blend", "concatenated"]

_LOADING_ERRORS = (
    *(ValueError, TypeError, AttributeError, RuntimeError, LookupError, OSError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
# transformers' progress bars, verbosity and default dtype are global while it loads.
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a loaded model wherever its weights are; fields as those of `Backbone`."""

    tokenizer: Tokenizer
    dimension: int
    num_layers: int
    reroutable: tuple[int, ...]
    max_positions: int | None
    hashes: ModelHashes
    revision: str | None


@dataclass(frozen=True, slots=True)
class Backbone:
    """A loaded base model and what was found out about it.

    Attributes:
        model: transformers base model in eval mode, without a language-model head.
        tokenizer: The `tokenizers` object, free of padding and truncation.
        dimension: E, size of a hidden state.
        num_layers: Layers of the decoder.
        reroutable: Layers whose attention goes through the registry, ascending.
        max_positions: Longest sequence on which a state does not depend on its batch, or None if there is no limit.
        hashes: Of the files these weights came from.
        revision: Commit of a hub model; of a folder what was asked for.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    dimension: int
    num_layers: int
    reroutable: tuple[int, ...]
    max_positions: int | None
    hashes: ModelHashes
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def facts(self) -> ModelFacts:
        """All but the weights."""
        return ModelFacts(**{field.name: getattr(self, field.name) for field in fields(ModelFacts)})


def load_backbone(
    model: str,
    *,
    revision: str | None,
    dtype: str,
    device: str | torch.device | None,
    quantization: Quantization | None = None,
) -> Backbone:
    """Load a decoder for re-routing and prove on a probe that it can be served.

    Args:
        model: `kvembed.DEMO_MODEL`, a folder, or a hub id.
        revision: Hub revision.
        dtype: "float32", "bfloat16" or "float16".
        device: torch device; None takes CUDA if there is any, else the CPU.
        quantization: How the weights are held in fewer bits, or None.

    Raises:
        ConfigError: the quantization cannot be had, or the files are quantised already.
        ModelNotFoundError: the files cannot be found.
        UnsupportedModelError: not a decoder, no fast tokenizer, or attention outside transformers' registry.
    """
    folder = resolve_model(model, revision)
    hashes = model_hashes(folder)
    target = torch.device(device) if device is not None else default_device()
    try:
        tokenizer = _load_tokenizer(folder, model)
        placed = quantized_loading(folder, model, quantization, getattr(torch, dtype), target)
        loaded = _load_quietly(folder, model, dtype, placed)
    except ConfigError:
        raise
    except _LOADING_ERRORS as error:
        raise UnsupportedModelError(model, f"transformers cannot load it: {_reason(error)}") from error
    loaded.eval()  # type: ignore[no-untyped-call]
    base = loaded.requires_grad_(False)
    if not placed:  # quantised weights are where they were loaded to
        base.to(target)  # type: ignore[arg-type]
    text_config = base.config.get_text_config(decoder=True)
    return Backbone(
        model=base,
        tokenizer=tokenizer,
        dimension=int(text_config.hidden_size),
        num_layers=int(text_config.num_hidden_layers),
        reroutable=probe(base, model, tokenizer.get_vocab_size()),
        max_positions=_position_limit(text_config),
        hashes=hashes,
        revision=pinned_revision(model, revision, folder),
    )


def check_fit(config: EncoderConfig, facts: ModelFacts) -> None:
    """Refuse layers and lengths that the model does not have, before any text is embedded.

    Raises:
        ConfigError: naming what came and what is legal.
    """
    limit = facts.max_positions
    if limit is not None and config.max_length > limit:
        raise ConfigError(
            f"max_length is {config.max_length}, but the model keeps its arithmetic over {limit} positions; "
            f"use EncoderConfig(model=..., max_length={limit}) or less"
        )
    if config.prepending is not None:
        config.prepending.check_fit(facts.num_layers)
    if config.layers == "auto":
        return
    last = facts.num_layers - 1
    for layer in config.layers:
        if layer > last:
            raise ConfigError(
                f"re-routing layer {layer} is outside 0..{last} (model has {facts.num_layers} layers); "
                'pass layers="auto" or indices in range'
            )
        if layer not in facts.reroutable:
            raise ConfigError(
                f"layer {layer} has no full attention to re-route; this model can re-route {facts.reroutable}"
            )


def check_same_weights(loaded: EncoderConfig, asked: EncoderConfig) -> None:
    """Refuse a configuration that other weights would have to be loaded for.

    Raises:
        ConfigError: naming the field, what came and what is loaded.
    """
    for field in ("model", "revision", "dtype", "quantization"):
        own, given = getattr(loaded, field), getattr(asked, field)
        if own != given:
            raise ConfigError(
                f"{field} is {given!r}, but the loaded weights are of {own!r}; load others with KVEncoder(config)"
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
    # Only from pinned memory does a copy to the GPU run beside the pass before it.
    pinned = device.type == "cuda"
    ids = torch.zeros(len(sequences), max(lengths), dtype=torch.int64, pin_memory=pinned)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
    last = torch.tensor([length - 1 for length in lengths], dtype=torch.int64, pin_memory=pinned)
    return ids.to(device, non_blocking=pinned), last.to(device, non_blocking=pinned)


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


def _load_tokenizer(folder: Path, model: str) -> Tokenizer:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(model, "it is an encoder-decoder; give a decoder-only language model")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModelError(model, "it has no fast tokenizer (tokenizer.json), which character offsets need")
    return plain_tokenizer(tokenizer.backend_tokenizer.to_str())


def _position_limit(config: PretrainedConfig) -> int | None:
    """Longest text; LongRoPE changes its factors with the longest row of a batch, so it stops where they change."""
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    settings = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if any(setting.get("rope_type") == "longrope" for setting in settings):
        original = [setting.get("original_max_position_embeddings") for setting in settings]
        return min([limit or sys.maxsize, *(int(value) for value in original if value)])
    return limit


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args == (ATTENTION_NAME,):
        return "its attention does not use transformers' registry"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _load_quietly(folder: Path, name: str, dtype: str, placed: Mapping[str, object]) -> PreTrainedModel:
    """Load the base model; a weight that the files lack would be random, so it is an error and no warning."""
    with _loading, _quiet_transformers():
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **placed,
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
