"""One batch of prompted texts through the frozen decoder, by the method of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from kvembed.backbone import AttentionForm, Backbone, rerouted_states, right_padded
from kvembed.config import EncoderConfig
from kvembed.errors import LayersUnresolvedError, UnsupportedModelError
from kvembed.fitting import data_free_transform
from kvembed.methods import TRAITS, Method
from kvembed.models import resolve_model
from kvembed.packing import can_pack, pack, packed_states, pool_packed
from kvembed.pooling import pool
from kvembed.prepending import prepended_states
from kvembed.prompts import PromptedText
from kvembed.transforms import FittedTransform, refuse_unfitted

Place = TypeVar("Place", int, tuple[int, int])

_PADDING = 1 / 8
"""Share of padding from which a batch is packed; below, both took the same time on a CPU, +-5%."""


@dataclass(frozen=True)
class ForwardPass:
    """Computes one batch; tokenising, batching and devices are others' work.

    Attributes:
        config: What to compute; its layers are resolved by the first call.
        backbone: The loaded model.
        form: How re-routed attention is computed, see `Rerouting.form`.
    """

    config: EncoderConfig
    backbone: Backbone
    form: AttentionForm = "blend"

    @torch.inference_mode()
    def __call__(self, texts: Sequence[PromptedText]) -> Tensor:
        """Embed texts in one pass.

        Args:
            texts: At least one, each with at least one token.

        Returns:
            (B, E) float32 on the model's device, of unit length where the configuration says so; not checked for NaN.
            Of a transform that keeps fewer numbers, (B, E').

        Raises:
            LayersUnresolvedError: layers is "auto".
            TransformUnfittedError: the transform wants a sample and has seen none.
            ReroutingNotAppliedError, PrependingNotAppliedError: a chosen layer ran as if it had not been chosen.
            UnsupportedModelError: the method is static, and token embeddings are of another size than states.
            ValueError: a text lacks the positions that its method needs; its prompt knows them.
        """
        if self.config.layers == "auto":
            raise LayersUnresolvedError
        vectors = self._packed(texts) if self._packs(texts) else self._padded(texts)
        vectors = vectors if self.transform is None else self.transform.apply(vectors)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.config.normalize else vectors

    def _packs(self, texts: Sequence[PromptedText]) -> bool:
        """Whether texts end to end take less than texts under each other; the vectors are the same."""
        if self.form != "blend" or self.config.prepending is not None or self.config.method is Method.STATIC:
            return False
        padded = len(texts) * max(len(text.ids) for text in texts)
        real = sum(len(text.ids) for text in texts)
        return padded - real > _PADDING * padded and self.packable

    @cached_property
    def packable(self) -> bool:
        """Whether this model keeps packed texts apart; found out on first use, see `can_pack`."""
        return can_pack(self.backbone.model, self._layers)

    @property
    def _layers(self) -> tuple[int, ...]:
        return () if self.config.layers == "auto" else self.config.layers

    def _packed(self, texts: Sequence[PromptedText]) -> Tensor:
        """Return pooled states (B, E)."""
        row = pack([text.ids for text in texts], self.backbone.device)
        states = packed_states(self.backbone.model, row, layers=self._layers, prefix_bias=self.config.prefix_bias)
        spans = None if TRAITS[self.config.method].copies == 1 else self._spans(texts)
        return pool_packed(states, row.packing, self.config.pooling, spans)

    def _padded(self, texts: Sequence[PromptedText]) -> Tensor:
        """Return pooled states (B, E)."""
        ids, last = right_padded([text.ids for text in texts], self.backbone.device)
        first, end = self._pooled(texts, last)
        return pool(self._states(texts, ids, last), end, self.config.pooling, first)

    def _states(self, texts: Sequence[PromptedText], ids: Tensor, last: Tensor) -> Tensor:
        """Return the states (B, T, E) that are pooled."""
        if self.config.method is Method.STATIC:
            return self._token_embeddings(ids)
        if self.config.prepending is not None:
            places = self._known([text.placeholder for text in texts])
            placeholders = torch.tensor(places, dtype=torch.int64, device=self.backbone.device)
            return prepended_states(
                self.backbone, ids, last, placeholders, prepending=self.config.prepending, name=self.config.model
            )
        return rerouted_states(
            self.backbone.model,
            ids,
            last,
            layers=self._layers,
            prefix_bias=self.config.prefix_bias,
            form=self.form,
        )

    def _token_embeddings(self, ids: Tensor) -> Tensor:
        """Return what the first layer is given, but for positions, (B, T, E)."""
        embedded: Tensor = self.backbone.model.get_input_embeddings()(ids)
        if embedded.shape[-1] != self.backbone.dimension:
            raise UnsupportedModelError(
                self.config.model,
                f"its token embeddings have {embedded.shape[-1]} numbers and its states {self.backbone.dimension}; "
                "use another method than 'static'",
            )
        return embedded

    def _pooled(self, texts: Sequence[PromptedText], last: Tensor) -> tuple[Tensor | int, Tensor]:
        """Return each row's first and last token that counts, (B,) int64."""
        if TRAITS[self.config.method].copies == 1:
            return 0, last
        first, stop = torch.tensor(self._spans(texts), dtype=torch.int64, device=self.backbone.device).unbind(1)
        return first, stop - 1

    def _spans(self, texts: Sequence[PromptedText]) -> list[tuple[int, int]]:
        """Return where the tokens that are pooled begin and end in each text."""
        return self._known([text.pooled for text in texts])

    def _known(self, places: Sequence[Place | None]) -> list[Place]:
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            raise ValueError(
                f"token ids do not say where the prompt of method {self.config.method.value!r} has its parts; "
                "give texts to encode_document or encode_query"
            )
        return known

    @cached_property
    def transform(self) -> FittedTransform | None:
        """The transform between pooling and scaling; one that needs no sample is worked out on first use.

        Raises:
            TransformUnfittedError: it wants a sample and has seen none.
            UnsupportedModelError: it filters, and the model's files have no language-model head.
        """
        found = self.config.transform
        if found is None or isinstance(found, FittedTransform):
            return found
        refuse_unfitted(found)
        return data_free_transform(
            found, resolve_model(self.config.model, self.config.revision), self.backbone.dimension
        )
