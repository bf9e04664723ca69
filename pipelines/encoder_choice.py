"""The encoder of a run: what was asked for, else what the collection has, else the defaults; loaded when needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from pipelines.errors import ForeignCollectionError

if TYPE_CHECKING:
    from kvembed import EncoderConfig, KVEncoder
    from kvembed.config import JSON
    from pipelines.chunking import ChunkingConfig
    from pipelines.collection import Collection
    from pipelines.manifest import Manifest
    from pipelines.store import Store, StoreLike


def open_encoder(
    store: StoreLike | None,
    name: str,
    given: Mapping[str, JSON],
    *,
    chunking: ChunkingConfig | None = None,
    device: str | None = None,
) -> KVEncoder:
    """Return the encoder that a run into a collection means.

    Where it is the collection's own, it is loaded when there is something to embed: most runs find nothing.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection; there may be none yet.
        given: Fields of `EncoderConfig` as its `to_dict` writes them, each as it is to be; the others are those of the
            collection, or the defaults where there is none.
        chunking: How the run cuts documents; None as the collection was cut.
        device: torch device; None takes the best one present.

    Raises:
        ConfigError: a field is not legal.
        ModelNotFoundError: the model that was given is not there.
        ModelUnavailableError: no model was given and the collection's is not here.
        StoreError: the store refuses.
    """
    from pipelines.store import open_store_to_look
    from pipelines.transform_choice import adopt_transform

    fields = _fields(given)
    with open_store_to_look(store) as opened:
        found = _collection(opened, name)
        config = fill_encoder(fields, found.manifest if found is not None else None)
        if found is None or config.layers == "auto":
            return load_encoder(config, device)
        config = adopt_transform(opened, config, found)
    if device is None and not _differs(found, config, chunking):
        from pipelines.lazy_encoder import LazyEncoder

        return cast("KVEncoder", LazyEncoder(config, lambda config: load_encoder(config, None)))
    return load_encoder(config, device)


def fill_encoder(given: Mapping[str, object], manifest: Manifest | None) -> EncoderConfig:
    """Fill what was not given from a collection, or from the defaults where there is none.

    The layers of a collection are those of its model: another model chooses its own. Its prompts, pooling and layers
    are those of its method: another method brings its own.

    Args:
        given: Fields of `EncoderConfig`.
        manifest: Of the collection that exists already, if any.

    Raises:
        ConfigError: a value is not legal.
        ModelNotFoundError: the model that was given is not there.
        ModelUnavailableError: no model was given and the collection's is not here.
    """
    from kvembed import EncoderConfig
    from pipelines.model_registry import find_model
    from pipelines.settings import load_settings

    if manifest is None:
        return EncoderConfig(**{"model": load_settings().model, **given})  # type: ignore[arg-type]
    model, method = given.get("model"), given.get("method")
    stored = manifest.config(str(model) if model is not None else find_model(manifest))
    config = replace(stored if method is None else stored.with_method(method), **given)  # type: ignore[arg-type]
    other = (model is not None or "revision" in given) and not _is_model_of(manifest, config)
    return replace(config, layers="auto") if other and "layers" not in given else config


def load_encoder(config: EncoderConfig, device: str | None) -> KVEncoder:
    """Load the model, without a word from transformers."""
    from kvembed import KVEncoder

    prepare_models(device)
    return KVEncoder(config, device=device)


def prepare_models(device: str | None) -> None:
    """Check the devices before anything is loaded, and turn off transformers' own bars and notices.

    Raises:
        ConfigError: this torch does not know a device, or has none.
    """
    from transformers.utils import logging

    from kvembed.devices import resolve_devices

    resolve_devices(device)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _fields(given: Mapping[str, JSON]) -> dict[str, object]:
    """Read the fields that are there; the model stands in for one that is not, because a configuration needs one."""
    from kvembed import EncoderConfig

    whole = EncoderConfig.from_dict({"model": "unnamed", **given})
    return {name: getattr(whole, name) for name in given}


def _collection(store: Store, name: str) -> Collection | None:
    from pipelines.collection import find_collection

    try:
        return find_collection(store, name)
    except ForeignCollectionError:  # to be adopted, or refused by the run, which knows what may be done
        return None


def _differs(found: Collection, config: EncoderConfig, chunking: ChunkingConfig | None) -> bool:
    from pipelines.collection import changes

    return bool(changes(found, config, chunking))


def _is_model_of(manifest: Manifest, config: EncoderConfig) -> bool:
    """Tell whether a model has the files that the collection was filled with."""
    from kvembed.models import model_hashes, resolve_model

    found = model_hashes(resolve_model(config.model, config.revision))
    return found.weights == manifest.encoder["weights_sha256"]
