"""The encoder and the chunking a command means: what was asked for, else what the collection has, else the defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pipelines import cli_options as options
from pipelines.cli_transform import TransformChoice, parse_transform
from pipelines.encoder_choice import fill_encoder, load_encoder, prepare_models

if TYPE_CHECKING:
    from kvembed import EncoderConfig
    from pipelines.chunking import ChunkingConfig
    from pipelines.manifest import Manifest


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """Options that describe an encoder; None means not given."""

    model: options.Model = None
    revision: options.Revision = None
    layers: options.Layers = None
    prefix_bias: options.PrefixBias = None
    max_length: options.MaxLength = None
    dtype: options.Dtype = None
    pooling: options.PoolingChoice = None
    method: options.MethodChoice = None
    transform: TransformChoice = None
    model_quantization: options.ModelQuantization = None
    device: options.Device = None

    def config(self, manifest: Manifest | None = None) -> EncoderConfig:
        """Fill what was not given from a collection, or from the defaults where there is none.

        The layers of a collection are those of its model: another model chooses its own. Its prompts, pooling and
        layers are those of its method: another method brings its own.

        Args:
            manifest: Of the collection that exists already, if any.

        Raises:
            ConfigError: an option is not legal.
            ModelNotFoundError: the model that was given is not there.
            ModelUnavailableError: no model was given and the collection's is not here.
        """
        given = {field: value for field, value in asdict(self).items() if value is not None and field != "device"}
        if self.layers is not None:
            given["layers"] = options.parse_layers(self.layers)
        if self.transform is not None:
            given["transform"] = parse_transform(self.transform)
        if (bits := given.pop("model_quantization", None)) is not None:
            given["quantization"] = None if bits == "none" else bits
        return fill_encoder(given, manifest)


@dataclass(frozen=True, slots=True)
class CuttingChoice:
    """Options that say how documents are cut; None means not given."""

    max_tokens: options.MaxTokens = None
    overlap_tokens: options.OverlapTokens = None
    context: options.Context = None

    def config(self, manifest: Manifest | None = None) -> ChunkingConfig:
        """Fill what was not given from a collection, or from the defaults where there is none.

        Args:
            manifest: Of the collection that exists already, if any.

        Raises:
            ChunkingError: a number is not legal.
        """
        from pipelines.chunking import ChunkingConfig

        config = ChunkingConfig() if manifest is None else ChunkingConfig.from_dict(manifest.chunking)
        return replace(config, **{field: value for field, value in asdict(self).items() if value is not None})


__all__ = ["CuttingChoice", "EncoderChoice", "load_encoder", "prepare_models"]
