"""Texts -> vectors, by one re-routed forward pass of a frozen decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from tqdm.auto import tqdm

from kvembed.backbone import AttentionForm, check_fit, check_same_weights
from kvembed.config import JSON, EncoderConfig, Layers, fingerprint_of
from kvembed.devices import Devices, resolve_devices
from kvembed.encoding import Encoding, Sheet, first_overflow, layer_states
from kvembed.errors import ConfigError, LayersUnresolvedError, NonFiniteVectorError
from kvembed.passes import VectorPass
from kvembed.prompts import CompressionPrompt, PromptedText, Role, prompt_for
from kvembed.throughput import Machine, OneDevice
from kvembed.tokenising import checked_texts, tokenised_ahead
from kvembed.transforms import FittedTransform, Transform, asked_of, check_size, refuse_unfitted
from kvembed.workers import WorkerPool


class KVEncoder:
    """Text encoder that re-routes keys and values inside a frozen decoder; nothing is trained.

    A vector depends on the configuration and the text alone: not on its batch, its place in it, or padding
    (within 1e-5 in float32). Instances may be used from several threads; where there are several devices, calls take
    turns. Encoders made of one another share weights and processes.

    Args:
        config: What to compute; layers may be "auto" until `select_layers` has seen a sample.
        device: torch device; None takes one GPU if there is any, else the CPU. "cuda" takes every GPU there is, and a
            list, or text with commas, several devices: each gets a process that loads the model, at once, and that
            ends with `close`, with this program, or with the last encoder that uses it.
        batch_tokens: Padded tokens per forward pass; None takes 1,024 on a CPU and on a GPU what its memory holds.
        form: "blend" is the fused exact form; "concatenated" the slow reference.

    Raises:
        ModelNotFoundError: the model's files cannot be found.
        UnsupportedModelError: the model cannot be re-routed.
        ConfigError: layers or max_length do not fit the model, or a device is not there.
        WorkerDiedError: the process of one of several devices ended while it loaded.

    Source: KV-Embedding, arXiv 2601.01046.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        device: Devices = None,
        batch_tokens: int | None = None,
        form: AttentionForm = "blend",
    ) -> None:
        devices = resolve_devices(device)
        machine = OneDevice.load(config, devices[0]) if len(devices) == 1 else WorkerPool(config, devices)
        try:
            self._setup(replace(config, revision=machine.facts.revision), machine, batch_tokens, form)
        except BaseException:
            machine.close()
            raise

    @classmethod
    def from_pretrained(cls, model: str, *, layers: Layers = "auto", device: Devices = None) -> KVEncoder:
        """Load a model with the default prompts, pooling and prefix bias; arguments as of `EncoderConfig` and above."""
        return cls(EncoderConfig(model=model, layers=layers), device=device)

    def with_layers(self, layers: Iterable[int]) -> KVEncoder:
        """Return an encoder over the same loaded weights that re-routes in these layers."""
        return self._over_same_weights(self.config.with_layers(layers))

    def with_transform(self, transform: Transform) -> KVEncoder:
        """Return an encoder over the same loaded weights with this transform, or with none.

        Args:
            transform: What is asked for, or what `fit_transform` made of it.

        Raises:
            ConfigError: the transform was fitted to vectors of another encoder, or of another size.
        """
        return self._over_same_weights(self.config.with_transform(transform))

    def bare(self) -> KVEncoder:
        """Return an encoder over the same weights that neither transforms nor scales: what transforms are fitted to."""
        return self._over_same_weights(replace(self.config, transform=None, normalize=False))

    def with_config(self, config: EncoderConfig) -> KVEncoder:
        """Return an encoder over the same loaded weights; all but model, revision, dtype and quantization may differ.

        Raises:
            ConfigError: it asks for other weights, or does not fit the model.
        """
        check_same_weights(self._config, config)
        return self._over_same_weights(config)

    def _over_same_weights(self, config: EncoderConfig) -> KVEncoder:
        encoder = KVEncoder.__new__(KVEncoder)
        encoder._setup(config, self._machine, self._batch_tokens, self._form)
        return encoder

    def _setup(self, config: EncoderConfig, machine: Machine, batch_tokens: int | None, form: AttentionForm) -> None:
        facts = machine.facts
        check_fit(config, facts)
        if batch_tokens is not None and batch_tokens < 1:
            raise ConfigError(f"batch_tokens is {batch_tokens}; it must be at least 1, or None")
        check_size(config.transform, facts.dimension)
        self._config = config
        self._machine = machine
        self._batch_tokens = batch_tokens
        self._form: AttentionForm = form
        self._vectors = machine.bind(VectorPass(config, form))
        self._prompts: dict[Role, CompressionPrompt] = {
            "query": prompt_for(config.method, config.query_template, facts.tokenizer, config.max_length),
            "document": prompt_for(config.method, config.document_template, facts.tokenizer, config.max_length),
        }
        if isinstance(config.transform, FittedTransform) and config.layers != "auto":
            self.identity()  # which refuses one that was fitted to the vectors of another encoder

    @property
    def config(self) -> EncoderConfig:
        """The configuration this encoder computes; its revision is the commit that a hub model was loaded from."""
        return self._config

    @property
    def dimension(self) -> int:
        """Numbers per vector: E of the model, or E' where a transform keeps fewer."""
        asked = asked_of(self._config.transform)
        return self._machine.facts.dimension if asked is None else asked.size(self._machine.facts.dimension)

    @property
    def fingerprint(self) -> str:
        """`EncoderConfig.fingerprint` of the weights in memory; an error while layers is "auto"."""
        return fingerprint_of(self.identity())

    def identity(self) -> dict[str, JSON]:
        """Return `EncoderConfig.identity` of the weights in memory, whatever lies in their folder by now."""
        return self._config.identity(self._machine.facts.hashes)

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return self._machine.facts.num_layers

    @property
    def reroutable_layers(self) -> tuple[int, ...]:
        """Layers that can re-route: all of most models, the full-attention ones of hybrids."""
        return self._machine.facts.reroutable

    @property
    def device(self) -> torch.device:
        """Device the model runs on; the first of several."""
        return self._machine.devices[0]

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices the model runs on."""
        return self._machine.devices

    def close(self) -> None:
        """End the processes of several devices, for every encoder that shares them; one device has none."""
        self._machine.close()

    def __enter__(self) -> KVEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own `tokenizers` object, for chunking by the same tokens."""
        return self._machine.facts.tokenizer

    @property
    def document_budget(self) -> int:
        """Content tokens of a document that always fit: max_length without prompt, special tokens and seams."""
        return self._prompts["document"].budget

    @property
    def document_overhead(self) -> int:
        """Tokens that the document prompt and the special tokens add to a text."""
        return self._prompts["document"].overhead

    @property
    def document_copies(self) -> int:
        """How often a document stands in its prompt: its tokens cost as many times what they are."""
        return self._prompts["document"].copies

    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Embed texts to be found.

        Args:
            texts: Any number; an empty or blank text gets the vector of the empty prompt.
            show_progress: Draw a progress bar on stderr.

        Returns:
            (n, E) float32 in input order; (0, E) for no texts. Of a transform that keeps fewer numbers, E'.

        Raises:
            LayersUnresolvedError: layers is "auto".
            NonFiniteVectorError: the model produced NaN or infinity.
            ReroutingNotAppliedError: a chosen layer ran without re-routing.
            TransformUnfittedError: the transform wants a sample and has seen none.
            TypeError: texts is a single str, or holds something else.
            ValueError: a text has half a character.
        """
        return self.encode_counted(texts, "document", show_progress=show_progress).vectors

    def encode_query(self, texts: Sequence[str], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Embed texts to search with; takes, returns and raises what `encode_document` does."""
        return self.encode_counted(texts, "query", show_progress=show_progress).vectors

    def encode_counted(self, texts: Sequence[str], role: Role, *, show_progress: bool = False) -> Encoding:
        """Embed texts and count the tokens used and the tokens cut.

        Args:
            texts: Any number of texts.
            role: Which prompt wraps them.
            show_progress: Draw a progress bar on stderr.

        Returns:
            Vectors, tokens used and tokens cut, each in input order.

        Raises:
            KVEmbedError, TypeError, ValueError: as `encode_document`.
        """
        self._layers()
        checked = checked_texts(texts)
        found = Sheet(len(checked), self.dimension)
        prompt = self._prompts[role]
        with (
            closing(tokenised_ahead(prompt, checked)) as slices,
            tqdm(total=len(checked), disable=not show_progress, unit="text") as bar,
        ):
            found.fill(self._vectors, slices, self._batch_tokens, self._config.max_length, bar.update)
        self._refuse_non_finite(found.vectors, lambda index: prompt.apply([checked[index]])[0])
        return found.encoding(self.device)

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> NDArray[np.float32]:
        """Embed token ids that already hold the prompt, padded on either side; none are cut.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 on real tokens, 0 on padding; every row has a real token.

        Returns:
            (B, E) float32.

        Raises:
            ValueError: the shapes differ or are not (B, T), or a row has no real token.
            NonFiniteVectorError: the model produced NaN or infinity.
        """
        self._layers()
        if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
            shapes = f"{tuple(input_ids.shape)} and {tuple(attention_mask.shape)}"
            raise ValueError(f"input_ids and attention_mask have shapes {shapes}; both must be (B, T)")
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        if not rows or not all(rows):
            raise ValueError("a row of attention_mask has no real token, or there is no row; give at least one of each")
        prompted = [PromptedText(row, 0) for row in rows]
        found = Sheet(len(prompted), self.dimension)
        found.fill(self._vectors, [list(enumerate(prompted))], self._batch_tokens, max(map(len, rows)))
        self._refuse_non_finite(found.vectors, prompted.__getitem__)
        return found.encoding(self.device).vectors

    def last_token_states(self, texts: Sequence[str], *, batch_tokens: int | None = None) -> NDArray[np.float32]:
        """Return what layer selection looks at: each layer's output at the last token, without re-routing.

        Args:
            texts: Documents; they are wrapped in the document prompt.
            batch_tokens: Padded tokens per forward pass; 1 runs each text alone; None takes the encoder's own.

        Returns:
            (L, n, E) float32; the last layer's after the final norm.
        """
        prompted = self._prompts["document"].apply(checked_texts(texts))
        return layer_states(self._machine, prompted, self._config, batch_tokens or self._batch_tokens)

    def _layers(self) -> tuple[int, ...]:
        if self._config.layers == "auto":
            raise LayersUnresolvedError
        refuse_unfitted(self._config.transform)
        return self._config.layers

    def _refuse_non_finite(self, vectors: NDArray[np.float32], text_at: Callable[[int], PromptedText]) -> None:
        bad = [int(index) for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]
        if bad:
            layer = first_overflow(self._machine, self._layers(), self._config.prefix_bias, text_at(bad[0]))
            raise NonFiniteVectorError(bad, self._config.dtype, layer)
