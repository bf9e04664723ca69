"""LangChain's `index()` with its SQLRecordManager, over langchain-qdrant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from langchain_classic.indexes import SQLRecordManager, index
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client import models

from benchmarks.peers.corpus import DIMENSION, read_corpus, vector_of
from benchmarks.peers.places import connect

PACKAGES = ("langchain-core", "langchain-classic", "langchain-qdrant", "qdrant-client")
BATCH = 1000  # its documentation: "as big a batch size as possible"; 100, the default, is slower


class CostlessEmbeddings(Embeddings):
    """Gives each text the vector that the other tools are given for it."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Look the vectors up."""
        return [vector_of(text).tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Look the vector up."""
        return self.embed_documents([text])[0]


def documents(corpus: Path) -> Iterator[Document]:
    """Read the file as a loader would, one document at a time."""
    for document_id, text in read_corpus(corpus):
        yield Document(page_content=text, metadata={"source": document_id})


class LangChain:
    """A vector store and the record manager beside it.

    Args:
        place: Folder, ":memory:", or URL of a server.
        state: Folder of the record manager's database; unused where the store is in memory, as it is then too.
    """

    def __init__(self, place: str, state: Path) -> None:
        self._client = connect(place)
        if not self._client.collection_exists("bench"):
            vectors = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
            self._client.create_collection("bench", vectors_config=vectors)
        self._store = QdrantVectorStore(self._client, "bench", CostlessEmbeddings())
        url = "sqlite://" if place == ":memory:" else f"sqlite:///{state / 'records.sqlite'}"
        self._records = SQLRecordManager("qdrant/bench", db_url=url)
        self._records.create_schema()

    def run(self, corpus: Path) -> dict[str, int]:
        """Bring the collection in line with the corpus."""
        found = index(
            documents(corpus),
            self._records,
            self._store,
            batch_size=BATCH,
            cleanup="full",
            source_id_key="source",
            key_encoder="sha1",  # the default; ids of the others are no UUIDs, and Qdrant takes nothing else
        )
        return {"written": found["num_added"], "unchanged": found["num_skipped"]}

    def close(self) -> None:
        """Release the store."""
        self._client.close()


TOOL = LangChain
