"""What a server is told about vectors, and what it cannot be told."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from qdrant_client import models

from pipelines.points import INDEXED_FIELDS
from pipelines.storage import StorageConfig, payload_indexes


def test_storage_default_is_what_a_collection_without_one_has() -> None:
    storage = StorageConfig()
    assert storage.vectors(32) == models.VectorParams(size=32, distance=models.Distance.COSINE)
    assert storage.quantization_config() is None
    assert storage.search_params() is None
    assert payload_indexes(storage) == payload_indexes() == dict.fromkeys(INDEXED_FIELDS, "keyword")


def test_storage_on_disk_is_the_vectors_alone() -> None:
    storage = StorageConfig(on_disk=True, quantization="scalar")
    assert storage.vectors(32).on_disk is True
    quantized = storage.quantization_config()
    assert isinstance(quantized, models.ScalarQuantization)
    assert quantized.scalar.always_ram is True  # or every step of a search waits for the disk
    assert quantized.scalar.type == models.ScalarType.INT8


def test_storage_binary_is_searched_wider_and_measured_again() -> None:
    storage = StorageConfig(quantization="binary")
    quantized = storage.quantization_config()
    assert isinstance(quantized, models.BinaryQuantization)
    assert quantized.binary.always_ram is True
    wide, narrow = storage.search_params(), StorageConfig(quantization="scalar").search_params()
    assert wide is not None
    assert narrow is not None
    assert wide.quantization.rescore is narrow.quantization.rescore is True  # type: ignore[union-attr]
    assert wide.quantization.oversampling > narrow.quantization.oversampling > 1  # type: ignore[operator, union-attr]


def test_storage_tenant_is_indexed_as_one_beside_the_others() -> None:
    indexes = payload_indexes(StorageConfig(tenant_field="customer.id"))
    assert set(indexes) == {*INDEXED_FIELDS, "metadata.customer.id"}
    tenant = indexes["metadata.customer.id"]
    assert isinstance(tenant, models.KeywordIndexParams)
    assert (tenant.type, tenant.is_tenant) == (models.KeywordIndexType.KEYWORD, True)


@pytest.mark.parametrize(
    "storage", [StorageConfig(), StorageConfig(on_disk=True, quantization="binary", tenant_field="Kunde-1.Straße")]
)
def test_storage_survives_json(storage: StorageConfig) -> None:
    assert StorageConfig.from_dict(json.loads(json.dumps(storage.to_dict()))) == storage


def test_storage_of_an_older_manifest_has_the_defaults() -> None:
    assert StorageConfig.from_dict({}) == StorageConfig()
    assert StorageConfig.from_dict({"on_disk": True}) == StorageConfig(on_disk=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quantization": "product"}, r"quantization is 'product'; legal are none, scalar, binary"),
        ({"quantization": None}, r"quantization is None; legal are none, scalar, binary"),
        ({"on_disk": "yes"}, r"on_disk is 'yes'; legal are true and false"),
        ({"tenant_field": ""}, r"tenant_field is ''; give a key of the documents' metadata"),
        ({"tenant_field": 7}, r"tenant_field is 7; give a key"),
        ({"tenant_field": "a..b"}, r"tenant_field is 'a..b'; give a key"),
        ({"tenant_field": "tags[]"}, r"tenant_field is 'tags\[\]'; give a key"),
        ({"tenant_field": "content_hash"}, r"tenant_field is 'content_hash', which describes a chunk"),
        ({"shards": 2, "hnsw": {}}, r"storage has no field 'hnsw', 'shards'; legal are on_disk, quantization, tenant"),
    ],
)
def test_storage_that_no_server_takes_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StorageConfig.from_dict(given)


def test_storage_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StorageConfig().on_disk = True  # type: ignore[misc]
