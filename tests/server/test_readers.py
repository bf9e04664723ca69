"""A reader that stays open over a server while runs, rollbacks and prunes go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from kvembed import KVEncoder
from pipelines import (
    ChunkingConfig,
    CollectionNotFoundError,
    Document,
    OpenCollection,
    ingest,
    open_collection,
    prune,
    rollback,
)
from pipelines.storage import StorageConfig
from tests.server.conftest import Served

QUERY = "the boundary layer of a flat plate"
DOCUMENTS = [
    Document(f"document {number}", text, f"{number}.txt")
    for number, text in enumerate(["Compress a file with gzip.", "The boundary layer of a flat plate."])
]
CHUNKING = ChunkingConfig(max_tokens=128)


def scores(reader: OpenCollection) -> dict[str, float]:
    return {hit.document_id: hit.score for hit in reader.search(QUERY)}


def expected(encoder: KVEncoder) -> dict[str, float]:
    query = encoder.encode_query([QUERY])[0]
    vectors = encoder.encode_document([document.text for document in DOCUMENTS])
    return {document.id: float(vector @ query) for document, vector in zip(DOCUMENTS, vectors, strict=True)}


@pytest.mark.filterwarnings("ignore:Local mode performs exact")  # the double keeps its points in an embedded store
def test_reader_kept_open_follows_swap_rollback_and_prune(
    served: Served, make_encoder: Callable[..., KVEncoder]
) -> None:
    blue, green = make_encoder(layers=(1,)), make_encoder(layers=(2,))
    quantized = StorageConfig(quantization="scalar")
    with served.open() as store:
        ingest(DOCUMENTS, store, served.name, blue, chunking=CHUNKING, storage=quantized)
        with open_collection(store, served.name, device="cpu") as reader:
            retriever = reader.retriever(k=1)
            old = reader.pinned()
            assert scores(reader) == pytest.approx(expected(blue), abs=1e-4)
            ingest(DOCUMENTS, store, served.name, green, chunking=CHUNKING)
            assert scores(reader) == pytest.approx(expected(green), abs=1e-4)
            assert scores(reader) != pytest.approx(expected(blue), abs=1e-3)
            rollback(store, served.name)
            assert scores(reader) == pytest.approx(expected(blue), abs=1e-4)
            rollback(store, served.name)
            assert prune(store, served.name, grace=timedelta()).removed == (old.physical,)
            assert scores(reader) == pytest.approx(expected(green), abs=1e-4)
            best = max(expected(green), key=lambda found: expected(green)[found])
            assert [found.metadata["document_id"] for found in retriever.invoke(QUERY)] == [best]
            with pytest.raises(CollectionNotFoundError, match=f"was found as '{old.physical}', which is no longer"):
                old.search(QUERY)


def test_reader_whose_generation_is_pruned_before_its_query_asks_the_next(
    served: Served, make_encoder: Callable[..., KVEncoder]
) -> None:
    blue, green = make_encoder(layers=(1,)), make_encoder(layers=(2,))
    with served.open() as store:
        ingest(DOCUMENTS, store, served.name, blue, chunking=CHUNKING)
        with open_collection(store, served.name, device="cpu") as reader:
            asked = []

            def ask(pinned):
                asked.append(pinned.physical)
                if len(asked) == 1:
                    ingest(DOCUMENTS, store, served.name, green, chunking=CHUNKING)
                    prune(store, served.name, grace=timedelta())
                return {hit.document_id: hit.score for hit in pinned.search(QUERY)}

            assert reader.request(ask) == pytest.approx(expected(green), abs=1e-4)
            assert len(set(asked)) == 2
