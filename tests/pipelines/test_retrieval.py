"""A query is embedded as the collection was, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from kvembed import EncoderConfig, KVEncoder
from kvembed.langchain import KVEmbeddings
from pipelines import (
    Chunker,
    ChunkingConfig,
    CollectionNotFoundError,
    Document,
    EncoderMismatchError,
    ModelUnavailableError,
    StoreError,
    ingest,
    open_collection,
)

DOCUMENTS = [
    Document("gzip", "Compress a file with gzip.", "docs/gzip.txt", "gzip", {"topic": "files"}),
    Document("args", "Parse the options of a command line.", "docs/argparse.txt", "argparse", {"topic": "shell"}),
    Document("wind", "The boundary layer of a flat plate.", "docs/plate.txt", "plate"),
]
CHUNKING = ChunkingConfig(max_tokens=128)
MakeEncoder = Callable[..., KVEncoder]


@pytest.fixture(scope="module")
def filled(tiny_encoder: KVEncoder) -> QdrantClient:
    client = QdrantClient(":memory:")
    ingest(DOCUMENTS, client, "notes", tiny_encoder, chunking=CHUNKING)
    return client


def test_open_collection_finds_text_by_itself(filled: QdrantClient, tiny_encoder: KVEncoder) -> None:
    with open_collection(filled, "notes", encoder=tiny_encoder) as collection:
        assert len(collection.search("gzip", limit=2)) == 2
        (hit, *_) = collection.search("anything", limit=3)
        assert hit.metadata["document_id"] == hit.document_id
        assert -1.0 <= hit.score <= 1.0
        assert hit.text in {document.text for document in DOCUMENTS}
        assert set(hit.to_dict()) == {"document_id", "score", "text", "metadata"}
        with pytest.raises(ValueError, match="limit is 0"):
            collection.search("x", limit=0)


def test_open_collection_score_is_the_cosine_of_the_encoders_vectors(
    filled: QdrantClient, tiny_encoder: KVEncoder
) -> None:
    with open_collection(filled, "notes", encoder=tiny_encoder) as collection:
        hits = {hit.document_id: hit.score for hit in collection.search("flat plate", limit=3)}
    query = tiny_encoder.encode_query(["flat plate"])[0]
    for document in DOCUMENTS:
        (chunk,) = Chunker(CHUNKING, tiny_encoder).chunks(document)
        (vector,) = tiny_encoder.encode_document([chunk.embedded_text])
        assert hits[document.id] == pytest.approx(float(query @ vector), abs=1e-5)


def test_open_collection_without_encoder_loads_the_one_that_filled_it(
    tmp_path: Path, tiny_model_dir: Path, tiny_encoder: KVEncoder
) -> None:
    ingest(DOCUMENTS, tmp_path, "notes", tiny_encoder, chunking=CHUNKING)
    with open_collection(tmp_path, "notes", device="cpu") as collection:
        assert collection.encoder.fingerprint == tiny_encoder.fingerprint
        assert collection.encoder.config.layers == (1,)
        assert collection.manifest.encoder["model"] == tiny_model_dir.name
        assert str(tiny_model_dir) not in json.dumps(collection.manifest.to_metadata())


def test_open_collection_model_moved_elsewhere_is_accepted_by_hash(
    filled: QdrantClient, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVEMBED_CACHE_DIR", str(tmp_path / "another-user"))
    with pytest.raises(ModelUnavailableError, match=r"with weights [0-9a-f]{12}…, which was not found.*--model FOLDER"):
        open_collection(filled, "notes")
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model_dir, moved)
    with open_collection(filled, "notes", model=str(moved), device="cpu") as collection:
        assert collection.verify().ok


def test_open_collection_another_model_is_refused_naming_its_hash(
    filled: QdrantClient, tiny_model_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    with pytest.raises(EncoderMismatchError, match="architecture_sha256: stored") as caught:
        open_collection(filled, "notes", model=str(other))
    assert "layers" not in caught.value.differences


@pytest.mark.parametrize(
    ("fields", "field", "stored", "given"),
    [
        ({"layers": (2,)}, "layers", [1], [2]),
        ({"prefix_bias": 0.0}, "prefix_bias", 1.0, 0.0),
        ({"pooling": "mean"}, "pooling", "hybrid", "mean"),
        ({"query_template": "Find: {text}"}, "query_template", EncoderConfig("x").query_template, "Find: {text}"),
    ],
)
def test_open_collection_other_encoder_of_the_same_dimension_names_field_and_values(
    filled: QdrantClient,
    make_encoder: MakeEncoder,
    fields: dict[str, object],
    field: str,
    stored: object,
    given: object,
) -> None:
    encoder = make_encoder(**fields)
    for insisted in (encoder, encoder.config):
        with pytest.raises(EncoderMismatchError) as caught:
            open_collection(filled, "notes", encoder=insisted)
        assert caught.value.differences == {field: (stored, given)}
        assert f"{field}: stored {stored!r}, given {given!r}" in str(caught.value)


def test_open_collection_layers_auto_are_those_of_the_collection(
    filled: QdrantClient, make_encoder: MakeEncoder
) -> None:
    auto = make_encoder(layers="auto")
    for insisted in (auto, auto.config):
        with open_collection(filled, "notes", encoder=insisted, device="cpu") as collection:
            assert collection.encoder.config.layers == (1,)


def test_open_collection_unknown_name_lists_what_there_is(filled: QdrantClient) -> None:
    with pytest.raises(CollectionNotFoundError, match="no collection 'other' in this store; it has: 'notes'"):
        open_collection(filled, "other")


def test_open_collection_of_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        open_collection(tmp_path / "none", "notes")
    assert not (tmp_path / "none").exists()


def test_open_collection_closes_the_store_it_opened_and_no_other(
    tmp_path: Path, filled: QdrantClient, tiny_encoder: KVEncoder
) -> None:
    ingest(DOCUMENTS, tmp_path, "notes", tiny_encoder, chunking=CHUNKING)
    for _ in range(2):
        with open_collection(tmp_path, "notes", encoder=tiny_encoder) as collection:
            collection.search("x")
        with pytest.raises(CollectionNotFoundError):
            open_collection(tmp_path, "other")
    open_collection(filled, "notes", encoder=tiny_encoder).close()
    assert filled.get_collections().collections


def test_retriever_returns_our_text_and_metadata(filled: QdrantClient, tiny_encoder: KVEncoder) -> None:
    with open_collection(filled, "notes", encoder=tiny_encoder) as collection:
        found = collection.retriever(k=2).invoke("command line")
        direct = collection.search("command line", limit=2)
    assert [item.page_content for item in found] == [hit.text for hit in direct]
    for item, hit in zip(found, direct, strict=True):
        assert {key: item.metadata[key] for key in hit.metadata} == hit.metadata


async def test_retriever_is_async_too(filled: QdrantClient, tiny_encoder: KVEncoder) -> None:
    with open_collection(filled, "notes", encoder=tiny_encoder) as collection:
        assert len(await collection.retriever(k=1).ainvoke("command line")) == 1


def test_vector_store_filters_on_metadata(filled: QdrantClient, tiny_encoder: KVEncoder) -> None:
    shell = models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="shell"))
    with open_collection(filled, "notes", encoder=tiny_encoder) as collection:
        found = collection.vector_store.similarity_search("x", k=5, filter=models.Filter(must=[shell]))
    assert [item.metadata["document_id"] for item in found] == ["args"]


def test_langchains_own_store_over_our_alias_returns_our_text_and_metadata(
    filled: QdrantClient, tiny_encoder: KVEncoder
) -> None:
    store = QdrantVectorStore(client=filled, collection_name="notes", embedding=KVEmbeddings(tiny_encoder))
    ((found, score),) = store.similarity_search_with_score("gzip", k=1)
    with open_collection(filled, "notes", encoder=tiny_encoder) as collection:
        (hit,) = collection.search("gzip", limit=1)
    assert found.page_content == hit.text
    assert found.metadata["document_id"] == hit.document_id
    assert found.metadata["source"].startswith("docs/")
    assert np.isclose(score, hit.score)
