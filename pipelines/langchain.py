"""LangChain's retriever over a name whose collection may be exchanged at any time."""

from __future__ import annotations

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStoreRetriever

from pipelines.pinned import PinnedCollection
from pipelines.retrieval import OpenCollection


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
