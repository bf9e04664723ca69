"""The encoder and the chunking a command means: what was asked for, else what the collection has, else the defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pipelines.cli_options import LayerChoice

if TYPE_CHECKING:
    from kvembed import EncoderConfig, KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.manifest import Manifest


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """Options of a command that describe an encoder; None means not given."""

    model: str | None = None
    revision: str | None = None
    layers: LayerChoice | None = None
    prefix_bias: float | None = None
    max_length: int | None = None
    dtype: str | None = None
    pooling: str | None = None

    def config(self, manifest: Manifest | None = None) -> EncoderConfig:
        """Fill what was not given from a collection, or from the defaults where there is none.

        Args:
            manifest: Of the collection that exists already, if any.

        Raises:
            ConfigError: an option is not legal.
            ModelUnavailableError: no model was given and the collection's is not here.
        """
        from kvembed import EncoderConfig
        from pipelines.model_registry import find_model
        from pipelines.settings import load_settings

        given = {field: value for field, value in asdict(self).items() if value is not None}
        if manifest is None:
            return replace(EncoderConfig(model=load_settings().model), **given)
        model = self.model if self.model is not None else find_model(manifest)
        return replace(manifest.config(model), **given)


def load_encoder(config: EncoderConfig, device: str | None) -> KVEncoder:
    """Load the model, without a word from transformers."""
    from kvembed import KVEncoder

    prepare_models(device)
    return KVEncoder(config, device=device)


def prepare_models(device: str | None) -> None:
    """Check the device before anything is loaded, and turn off transformers' own bars and notices.

    Raises:
        ConfigError: this torch does not know the device, or has none.
    """
    import torch
    from transformers.utils import logging

    from kvembed import ConfigError

    try:
        if device is not None:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used: {reason}; give cpu, cuda or cuda:0") from error
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def chunking_for(max_tokens: int | None, manifest: Manifest | None = None) -> ChunkingConfig:
    """Return how documents are cut: as asked, else as in the collection, else by default."""
    from pipelines.chunking import ChunkingConfig

    config = ChunkingConfig() if manifest is None else ChunkingConfig.from_dict(manifest.chunking)
    return config if max_tokens is None else replace(config, max_tokens=max_tokens)
