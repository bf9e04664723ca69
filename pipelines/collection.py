"""One physical collection with its manifest and ledger: made, found, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from qdrant_client import models

from kvembed.config import fingerprint_of
from pipelines.errors import CollectionNotFoundError, EncoderMismatchError, ForeignCollectionError
from pipelines.ledger import Ledger
from pipelines.manifest import CHUNKING, Manifest, differences, make_manifest, pipeline_hash, read_manifest
from pipelines.physical import aliases, check_name, collections, physical_name, resolve
from pipelines.points import INDEXED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvembed import EncoderConfig, KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.errors import JSON
    from pipelines.store import Store


@dataclass(frozen=True, slots=True)
class Collection:
    """A physical collection of ours.

    Attributes:
        name: The alias people use.
        physical: The collection behind it.
        manifest: What it says about itself.
        ledger: The state of its documents.
    """

    name: str
    physical: str
    manifest: Manifest
    ledger: Ledger


def find_collection(store: Store, name: str) -> Collection | None:
    """Return the collection behind a name, or None when there is none.

    Raises:
        InvalidCollectionNameError: the name cannot be one of ours.
        ForeignCollectionError: something of that name exists and is not ours.
        ManifestError: its manifest is newer than this version, or damaged.
    """
    check_name(name)
    physical = resolve(store, name)
    if physical is None:
        if name in collections(store):
            raise ForeignCollectionError(name, "it is a collection, where ours are aliases")
        return None
    return _load(store, name, physical)


def get_collection(store: Store, name: str) -> Collection:
    """Return the collection behind a name.

    Raises:
        CollectionNotFoundError: naming those that exist.
        TerminalError: as `find_collection`.
    """
    found = find_collection(store, name)
    if found is None:
        raise CollectionNotFoundError(name, sorted(aliases(store)))
    return found


def make_collection(
    store: Store,
    name: str,
    encoder: KVEncoder,
    chunking: ChunkingConfig,
    layer_profile: Mapping[str, JSON] | None = None,
) -> Collection:
    """Make the collection that this encoder and chunking fill, or complete one whose making was interrupted.

    The alias comes last: while it is missing every step is repeated, and each is harmless to repeat.
    """
    rules = chunking.to_dict()
    physical = physical_name(name, pipeline_hash(encoder.fingerprint, rules))
    existing = collections(store)
    if physical not in existing:
        manifest = make_manifest(name, encoder, rules, layer_profile)
        vectors = models.VectorParams(size=encoder.dimension, distance=models.Distance.COSINE)
        store.create(physical, vectors, manifest.to_metadata())
    made = _load(store, name, physical)
    if not store.embedded:  # embedded Qdrant has no payload indexes
        for field in INDEXED_FIELDS:
            store.call(
                store.client.create_payload_index,
                physical,
                field_name=field,
                field_schema=models.PayloadSchemaType.KEYWORD,
                wait=True,
            )
    if made.ledger.name not in existing:
        made.ledger.create()
    alias = models.CreateAlias(collection_name=physical, alias_name=name)
    store.call(store.client.update_collection_aliases, [models.CreateAliasOperation(create_alias=alias)])
    return made


def adopt_layers(encoder: KVEncoder, manifest: Manifest) -> KVEncoder:
    """Give an encoder whose layers are still "auto" the layers the collection was filled with."""
    return encoder.with_layers(manifest.layers) if encoder.config.layers == "auto" else encoder


def check_same(
    collection: Collection, encoder: KVEncoder | EncoderConfig, chunking: ChunkingConfig | None = None
) -> None:
    """Refuse an encoder or a chunking that did not fill this collection.

    Raises:
        EncoderMismatchError: naming each differing field with the stored and the given value.
    """
    stored = collection.manifest
    rules = chunking.to_dict() if chunking is not None else None
    identity = encoder.identity()
    found = differences(stored, cast("dict[str, JSON]", identity), rules)
    given = fingerprint_of(identity)
    if given == stored.fingerprint:  # fields may differ and mean the same, such as the bias of a closed slot
        found = {field: values for field, values in found.items() if field.startswith(CHUNKING)}
    elif not found:
        found = {"fingerprint": (stored.fingerprint, given)}
    if found:
        raise EncoderMismatchError(collection.name, found, "use what is stored, or index the source under another name")


def _load(store: Store, name: str, physical: str) -> Collection:
    info = store.call(store.client.get_collection, physical)
    manifest = read_manifest(name, info.config.metadata)
    return Collection(name, physical, manifest, Ledger(store, physical))
