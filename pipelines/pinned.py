"""One generation of a collection together with the encoder that filled it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from pipelines.errors import JSON, CollectionNotFoundError, StoreError
from pipelines.physical import collections
from pipelines.points import CONTENT_KEY, METADATA_KEY
from pipelines.report import SearchHit
from pipelines.storage import StorageConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from langchain_qdrant import QdrantVectorStore
    from numpy.typing import NDArray
    from qdrant_client import models

    from kvembed import KVEncoder
    from kvembed.langchain import KVEmbeddings
    from pipelines.collection import Collection
    from pipelines.manifest import Manifest
    from pipelines.store import Store
    from pipelines.verification import VerifyReport

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PinnedCollection:
    """A physical collection and its encoder, which stay together wherever the name points later.

    Attributes:
        store: Where the points are.
        collection: The physical collection, its manifest and its ledger.
        encoder: The encoder that filled it.
    """

    store: Store
    collection: Collection
    encoder: KVEncoder

    @property
    def name(self) -> str:
        """The name it was found by."""
        return self.collection.name

    @property
    def physical(self) -> str:
        """The Qdrant collection."""
        return self.collection.physical

    @property
    def manifest(self) -> Manifest:
        """What the collection says about itself."""
        return self.collection.manifest

    @property
    def search_params(self) -> models.SearchParams | None:
        """How a search makes up for quantized vectors; None where they are whole, as in any embedded store."""
        return None if self.store.embedded else StorageConfig.from_dict(self.manifest.storage).search_params()

    @property
    def embeddings(self) -> KVEmbeddings:
        """The encoder as LangChain sees it."""
        from kvembed.langchain import KVEmbeddings

        return KVEmbeddings(self.encoder)

    @property
    def vector_store(self) -> QdrantVectorStore:
        """LangChain's vector store over these points."""
        from pipelines.langchain import RescoringVectorStore

        return RescoringVectorStore(self.store.client, self.physical, self.embeddings, self.search_params)

    def search(self, query: str, limit: int = 5) -> list[SearchHit]:
        """Find the chunks nearest to a query, best first.

        Args:
            query: Plain words.
            limit: How many, at least 1.

        Raises:
            CollectionNotFoundError: this generation was removed.
        """
        return self.nearest(self.encoder.encode_query([query])[0], limit)

    def nearest(self, vector: NDArray[np.float32], limit: int = 5) -> list[SearchHit]:
        """Find the chunks nearest to a vector of `encoder.encode_query`, best first: `search` for many queries.

        Args:
            vector: (E,) float32.
            limit: How many, at least 1.

        Raises:
            CollectionNotFoundError: this generation was removed.
        """
        if limit < 1:
            raise ValueError(f"limit is {limit}; ask for at least 1")
        found = self.call(
            self.store.client.query_points,
            self.physical,
            query=vector.tolist(),
            search_params=self.search_params,
            limit=limit,
            with_payload=True,
        )
        return [_hit(point.payload or {}, point.score) for point in found.points]

    def verify(self, *, full: bool = False, sample: int = 64) -> VerifyReport:
        """Compare manifest, ledger and points, and embed canaries and texts again; `pipelines.verify` also repairs.

        Args:
            full: Embed every text again.
            sample: Embed so many again.
        """
        from pipelines.verification import verify_collection

        return verify_collection(self.store, self.collection, self.encoder, full=full, sample=sample)

    def call(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one operation on the points, as `Store.call` does.

        Raises:
            CollectionNotFoundError: this generation was removed.
            StoreError: the store refuses.
        """
        try:
            return self.store.call(operation, *args, **kwargs)
        except (StoreError, ValueError) as error:  # embedded Qdrant has a ValueError for it, a server a 404
            if self.physical in collections(self.store):
                raise
            raise CollectionNotFoundError(self.name, gone=self.physical) from error


def _hit(payload: Mapping[str, JSON], score: float) -> SearchHit:
    metadata = cast("Mapping[str, JSON]", payload.get(METADATA_KEY) or {})
    return SearchHit(str(metadata.get("document_id", "")), score, str(payload.get(CONTENT_KEY, "")), metadata)
