"""LangChain's vector store over one generation of a collection, and its retriever over the name."""

from __future__ import annotations

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from pipelines.pinned import PinnedCollection
from pipelines.points import CONTENT_KEY, METADATA_KEY
from pipelines.retrieval import OpenCollection


class RescoringVectorStore(QdrantVectorStore):
    """Qdrant's vector store, whose searches make up for quantized vectors unless they are told otherwise."""

    def __init__(
        self, client: QdrantClient, physical: str, embeddings: Embeddings, search_params: models.SearchParams | None
    ) -> None:
        super().__init__(
            client=client,
            collection_name=physical,
            embedding=embeddings,
            content_payload_key=CONTENT_KEY,
            metadata_payload_key=METADATA_KEY,
            validate_embeddings=False,  # a check that would embed a text each time; ours was made on opening
            validate_collection_config=False,
        )
        self._search_params = search_params

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        offset: int = 0,
        score_threshold: float | None = None,
        consistency: models.ReadConsistency | None = None,
        hybrid_fusion: models.FusionQuery | None = None,
        **kwargs: object,
    ) -> list[tuple[Document, float]]:
        """Search by text as LangChain's store does; all its searches by text come here."""
        params = search_params or self._search_params
        return super().similarity_search_with_score(
            query, k, filter, params, offset, score_threshold, consistency, hybrid_fusion, **kwargs
        )

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        offset: int = 0,
        score_threshold: float | None = None,
        consistency: models.ReadConsistency | None = None,
        **kwargs: object,
    ) -> list[tuple[Document, float]]:
        """Search by vector as LangChain's store does; all its searches by vector come here."""
        params = search_params or self._search_params
        return super().similarity_search_with_score_by_vector(
            embedding, k, filter, params, offset, score_threshold, consistency, **kwargs
        )

    def max_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        score_threshold: float | None = None,
        consistency: models.ReadConsistency | None = None,
        **kwargs: object,
    ) -> list[tuple[Document, float]]:
        """Search for diverse results as LangChain's store does; all its searches for them come here."""
        params = search_params or self._search_params
        return super().max_marginal_relevance_search_with_score_by_vector(
            embedding, k, fetch_k, lambda_mult, filter, params, score_threshold, consistency, **kwargs
        )


class CollectionRetriever(VectorStoreRetriever):
    """Asks, for each query, the generation that the name stands for at that moment, with its own encoder.

    `search_type`, `search_kwargs`, `tags` and `metadata` mean what they mean to LangChain. `vectorstore` is that of
    the generation the retriever was made in; queries do not use it.
    """

    collection: OpenCollection

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: object
    ) -> list[Document]:
        def ask(pinned: PinnedCollection) -> list[Document]:
            retriever = pinned.vector_store.as_retriever(search_type=self.search_type, search_kwargs=self.search_kwargs)
            return pinned.call(retriever._get_relevant_documents, query, run_manager=run_manager, **kwargs)

        return self.collection.request(ask)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: object
    ) -> list[Document]:
        """Work in a thread: the client is a synchronous one, and a new generation may have a model to load."""
        return await run_in_executor(
            None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs
        )
