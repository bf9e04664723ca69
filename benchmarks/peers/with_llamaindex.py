"""LlamaIndex's IngestionPipeline with a docstore, over its Qdrant vector store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import BaseNode, Document, NodeRelationship, TextNode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.qdrant import QdrantVectorStore

from benchmarks.peers.corpus import read_corpus, vector_of
from benchmarks.peers.places import connect

PACKAGES = ("llama-index-core", "llama-index-vector-stores-qdrant", "qdrant-client")
BATCH = 512  # the largest that was of use; 64, the default, is slower


class CostlessEmbedding(BaseEmbedding):
    """Gives each text the vector that the other tools are given for it."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return vector_of(text).tolist()  # type: ignore[no-any-return]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class OneChunk(TransformComponent):
    """Makes each document one node, as a splitter would; without one its points could never be deleted."""

    def __call__(self, nodes: Sequence[BaseNode], **_: object) -> list[BaseNode]:
        """Make the nodes, which name their documents."""
        return [
            TextNode(
                text=node.get_content(),
                metadata=node.metadata,
                relationships={NodeRelationship.SOURCE: node.as_related_node_info()},
            )
            for node in nodes
        ]


class LlamaIndex:
    """A pipeline, its vector store and the docstore beside it.

    The cache of transformations is off: it would keep every text and vector once more, and help no run measured here.

    Args:
        place: Folder, ":memory:", or URL of a server.
        state: Folder of the docstore's file; unused where the store is in memory, as it is then too.
    """

    def __init__(self, place: str, state: Path) -> None:
        self._client = connect(place)
        self._file = None if place == ":memory:" else state / "docstore.json"
        known = self._file is not None and self._file.is_file()
        self._docstore = SimpleDocumentStore.from_persist_path(str(self._file)) if known else SimpleDocumentStore()
        self._pipeline = IngestionPipeline(
            transformations=[OneChunk(), CostlessEmbedding(embed_batch_size=BATCH)],
            vector_store=QdrantVectorStore("bench", client=self._client, batch_size=BATCH),
            docstore=self._docstore,
            docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            disable_cache=True,
        )

    def run(self, corpus: Path) -> dict[str, int]:
        """Bring the collection in line with the corpus, which has to be in memory as a whole."""
        found = [
            Document(id_=document_id, text=text, metadata={"source": document_id})
            for document_id, text in read_corpus(corpus)
        ]
        written = self._pipeline.run(documents=found)
        if self._file is not None:
            self._docstore.persist(str(self._file))
        return {"written": len(written), "unchanged": len(found) - len(written)}

    def close(self) -> None:
        """Release the store."""
        self._client.close()


TOOL = LlamaIndex
