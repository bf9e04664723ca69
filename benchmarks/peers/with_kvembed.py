"""This package's `ingest`, with an encoder that costs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from benchmarks.peers.corpus import DIMENSION, read_corpus, vector_of
from pipelines import Document, ingest
from pipelines.store import open_store
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder, FakeEncoding

PACKAGES = ("kvembed", "qdrant-client")


class CostlessEncoder(FakeEncoder):
    """Gives each text the vector that the other tools are given for it."""

    dimension = DIMENSION

    def __init__(self) -> None:
        super().__init__(FakeConfig(model="fake/hash"))

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries as documents."""
        return np.stack([vector_of(text) for text in texts])

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        """Encode texts and keep none of them."""
        nothing = np.zeros(len(texts), dtype=np.int64)
        return FakeEncoding(np.stack([vector_of(text) for text in texts]), nothing + 1, nothing)


class Corpus:
    """The file as a source."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.description = "a corpus"

    def documents(self) -> Iterator[Document]:
        """Read it from the start."""
        for document_id, text in read_corpus(self._path):
            yield Document(document_id, text, document_id)


class Kvembed:
    """An open store and what keeps a collection in it in line with a source.

    Args:
        place: Folder, ":memory:", or URL of a server.
        state: Not needed; what is known of the documents is in the store.
    """

    def __init__(self, place: str, state: Path) -> None:
        self._memory = QdrantClient(":memory:") if place == ":memory:" else None
        self._store = open_store(self._memory or place)

    def run(self, corpus: Path) -> dict[str, int]:
        """Bring the collection in line with the corpus."""
        report = ingest(Corpus(corpus), self._store, "bench", CostlessEncoder())
        return {
            "written": report.documents_added + report.documents_changed,
            "unchanged": report.documents_unchanged,
        }

    def close(self) -> None:
        """Release the store."""
        self._store.close()


TOOL = Kvembed
