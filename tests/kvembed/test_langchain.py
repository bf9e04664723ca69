"""LangChain's own standard tests on the adapter."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from kvembed import KVEncoder
from kvembed.langchain import KVEmbeddings


class TestStandardUnit(EmbeddingsUnitTests):
    """Construction and types."""

    @pytest.fixture(autouse=True)
    def _encoder(self, tiny_encoder: KVEncoder) -> None:
        self.encoder = tiny_encoder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return KVEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return {"encoder": self.encoder}


class TestStandardIntegration(EmbeddingsIntegrationTests):
    """Calls, sync and async."""

    @pytest.fixture(autouse=True)
    def _encoder(self, tiny_encoder: KVEncoder) -> None:
        self.encoder = tiny_encoder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return KVEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return {"encoder": self.encoder}


def test_embeddings_use_the_prompt_of_each_role(tiny_encoder: KVEncoder) -> None:
    embeddings = KVEmbeddings(tiny_encoder)
    assert np.allclose(embeddings.embed_documents(["gzip"]), tiny_encoder.encode_document(["gzip"]))
    assert np.allclose(embeddings.embed_query("gzip"), tiny_encoder.encode_query(["gzip"])[0])


def test_embeddings_async_equals_sync(tiny_encoder: KVEncoder) -> None:
    embeddings = KVEmbeddings(tiny_encoder)
    assert asyncio.run(embeddings.aembed_query("gzip")) == embeddings.embed_query("gzip")
    assert asyncio.run(embeddings.aembed_documents(["a", "b"])) == embeddings.embed_documents(["a", "b"])
