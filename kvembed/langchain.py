"""LangChain adapter: the one place here that knows LangChain."""

from __future__ import annotations

import asyncio

from langchain_core.embeddings import Embeddings

from kvembed.encoder import KVEncoder


class KVEmbeddings(Embeddings):
    """LangChain embeddings of one encoder: documents and queries each through their own compression prompt.

    Args:
        encoder: Its layers must be resolved before the first text.
    """

    def __init__(self, encoder: KVEncoder) -> None:
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts to be found; one list of E floats per text, in input order."""
        vectors: list[list[float]] = self.encoder.encode_document(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed one text to search with; a list of E floats."""
        vector: list[float] = self.encoder.encode_query([text])[0].tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts to be found in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed one query in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.embed_query, text)
