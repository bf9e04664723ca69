"""The encoder that filled a collection, or an error that says what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvembed.config import fingerprint_of
from pipelines.collection import adopt_layers, check_same
from pipelines.model_registry import find_model

if TYPE_CHECKING:
    import torch

    from kvembed import EncoderConfig, KVEncoder
    from pipelines.collection import Collection
    from pipelines.manifest import Manifest

_KEPT = 2  # the one in use and the one before it, so that a rollback does not wait for a model


class MatchingEncoders:
    """Encoders of a collection's generations, loaded when asked for; at most two are held at any moment.

    Args:
        given: Insist on this encoder; layers "auto" become those of the collection.
        model: Where the model lies, if it was moved.
        device: torch device; None takes CUDA if there is any, else the CPU.
    """

    def __init__(
        self, given: KVEncoder | EncoderConfig | None, model: str | None, device: str | torch.device | None
    ) -> None:
        self._given = given
        self._model = model
        self._device = device
        self._loaded: dict[str, KVEncoder] = {}  # by fingerprint, the one used last at the end

    def matching(self, collection: Collection) -> KVEncoder:
        """Return the encoder that filled a collection; one that is held already is not loaded again.

        Raises:
            EncoderMismatchError: the encoder or the model given is another one; naming each field and both values.
            ModelUnavailableError: the stored model is not on this machine.
        """
        from kvembed import EncoderConfig

        if self._given is None:
            return self._held(collection.manifest) or self._load(collection, self._stored(collection.manifest))
        if isinstance(self._given, EncoderConfig):
            config = self._given
            config = config.with_layers(collection.manifest.layers) if config.layers == "auto" else config
            check_same(collection, config)
            return self._held(collection.manifest) or self._load(collection, config)
        encoder = adopt_layers(self._given, collection.manifest)
        check_same(collection, encoder)
        return encoder

    def _stored(self, manifest: Manifest) -> EncoderConfig:
        return manifest.config(self._model if self._model is not None else find_model(manifest))

    def _held(self, manifest: Manifest) -> KVEncoder | None:
        found = self._loaded.get(manifest.fingerprint) or self._relayered(manifest)
        if found is not None:
            self._hold(found)
        return found

    def _relayered(self, manifest: Manifest) -> KVEncoder | None:
        """Take other layers of weights that are held: loading the same weights again would double their memory."""
        for encoder in self._loaded.values():
            if fingerprint_of(encoder.identity() | {"layers": list(manifest.layers)}) == manifest.fingerprint:
                return encoder.with_layers(manifest.layers)
        return None

    def _load(self, collection: Collection, config: EncoderConfig) -> KVEncoder:
        from kvembed import KVEncoder

        check_same(collection, config)  # before a large model is loaded
        self._drop(_KEPT - 1)  # before there are three
        encoder = KVEncoder(config, device=self._device)
        check_same(collection, encoder)  # of what was loaded, should the files have changed meanwhile
        self._hold(encoder)
        return encoder

    def _hold(self, encoder: KVEncoder) -> None:
        self._loaded.pop(encoder.fingerprint, None)
        self._loaded[encoder.fingerprint] = encoder
        self._drop(_KEPT)

    def _drop(self, kept: int) -> None:
        for fingerprint in list(self._loaded)[: max(len(self._loaded) - kept, 0)]:
            del self._loaded[fingerprint]
