"""A collection, opened with the encoder that filled it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pipelines.collection import adopt_layers, check_same, get_collection
from pipelines.errors import JSON
from pipelines.model_registry import find_model
from pipelines.points import CONTENT_KEY, METADATA_KEY
from pipelines.report import SearchHit
from pipelines.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import numpy as np
    import torch
    from langchain_core.vectorstores import VectorStoreRetriever
    from langchain_qdrant import QdrantVectorStore
    from numpy.typing import NDArray

    from kvembed import EncoderConfig, KVEncoder
    from kvembed.langchain import KVEmbeddings
    from pipelines.collection import Collection
    from pipelines.manifest import Manifest
    from pipelines.store import Store, StoreLike
    from pipelines.verification import VerifyReport


def open_collection(
    store: StoreLike | None,
    name: str,
    *,
    encoder: KVEncoder | EncoderConfig | None = None,
    model: str | None = None,
    device: str | torch.device | None = None,
) -> OpenCollection:
    """Open a collection for searching, with exactly the encoder that filled it.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection.
        encoder: Insist on this encoder; layers "auto" become those of the collection.
        model: Where the model lies, if it was moved: a folder or hub id with the stored hashes.
        device: torch device; None takes CUDA if there is any, else the CPU.

    Raises:
        CollectionNotFoundError: no collection of that name.
        EncoderMismatchError: the encoder or the model given is another one; naming each field and both values.
        ModelUnavailableError: the stored model is not on this machine.
        StoreError: the store refuses.
    """
    opened = open_store(store, create=False)
    try:
        collection = get_collection(opened, name)
        return OpenCollection(opened, collection, _matching(collection, encoder, model, device))
    except BaseException:
        opened.close()
        raise


class OpenCollection:
    """A collection and its encoder; close it, or use it in a `with` statement.

    Attributes:
        name: The name it was opened by.
        physical: The Qdrant collection behind the name at that moment; every search goes there.
        encoder: The encoder that filled it.
    """

    def __init__(self, store: Store, collection: Collection, encoder: KVEncoder) -> None:
        self.name = collection.name
        self.physical = collection.physical
        self.encoder = encoder
        self._store = store
        self._collection = collection

    @property
    def manifest(self) -> Manifest:
        """What the collection says about itself."""
        return self._collection.manifest

    @property
    def embeddings(self) -> KVEmbeddings:
        """The encoder as LangChain sees it."""
        from kvembed.langchain import KVEmbeddings

        return KVEmbeddings(self.encoder)

    @property
    def vector_store(self) -> QdrantVectorStore:
        """LangChain's vector store over the points."""
        from langchain_qdrant import QdrantVectorStore

        return QdrantVectorStore(
            client=self._store.client,
            collection_name=self.physical,
            embedding=self.embeddings,
            content_payload_key=CONTENT_KEY,
            metadata_payload_key=METADATA_KEY,
            validate_embeddings=False,  # a check that would embed a text each time; ours was made on opening
            validate_collection_config=False,
        )

    def retriever(self, **search_kwargs: JSON) -> VectorStoreRetriever:
        """Return a LangChain retriever.

        Args:
            search_kwargs: What LangChain's Qdrant store takes per search, such as k=4 or score_threshold=0.2.
        """
        return self.vector_store.as_retriever(search_kwargs=dict(search_kwargs))

    def search(self, query: str, limit: int = 5) -> list[SearchHit]:
        """Find the chunks nearest to a query, best first.

        Args:
            query: Plain words.
            limit: How many, at least 1.
        """
        return self.nearest(self.encoder.encode_query([query])[0], limit)

    def nearest(self, vector: NDArray[np.float32], limit: int = 5) -> list[SearchHit]:
        """Find the chunks nearest to a vector of `encoder.encode_query`, best first: `search` for many queries.

        Args:
            vector: (E,) float32.
            limit: How many, at least 1.
        """
        if limit < 1:
            raise ValueError(f"limit is {limit}; ask for at least 1")
        found = self._store.call(
            self._store.client.query_points,
            self.physical,
            query=vector.tolist(),
            limit=limit,
            with_payload=True,
        )
        return [_hit(point.payload or {}, point.score) for point in found.points]

    def verify(self) -> VerifyReport:
        """Compare manifest, ledger and points, and embed the canaries again."""
        from pipelines.verification import verify_collection

        return verify_collection(self._store, self._collection, self.encoder)

    def close(self) -> None:
        """Release the store; a client that was passed in stays open."""
        self._store.close()

    def __enter__(self) -> OpenCollection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _matching(
    collection: Collection,
    given: KVEncoder | EncoderConfig | None,
    model: str | None,
    device: str | torch.device | None,
) -> KVEncoder:
    from kvembed import EncoderConfig, KVEncoder

    manifest = collection.manifest
    if given is not None and not isinstance(given, EncoderConfig):
        encoder = adopt_layers(given, manifest)
        check_same(collection, encoder)
        return encoder
    if given is None:
        config = manifest.config(model if model is not None else find_model(manifest))
    else:
        config = given.with_layers(manifest.layers) if given.layers == "auto" else given
    check_same(collection, config)  # before a large model is loaded
    encoder = KVEncoder(config, device=device)
    check_same(collection, encoder)  # of what was loaded, should the files have changed meanwhile
    return encoder


def _hit(payload: Mapping[str, JSON], score: float) -> SearchHit:
    metadata = cast("Mapping[str, JSON]", payload.get(METADATA_KEY) or {})
    return SearchHit(str(metadata.get("document_id", "")), score, str(payload.get(CONTENT_KEY, "")), metadata)
