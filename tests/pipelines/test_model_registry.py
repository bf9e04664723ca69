"""A model is found by what it is, wherever this user keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from kvembed import KVEncoder
from pipelines import Document, ModelUnavailableError, ingest, open_collection
from pipelines.model_registry import remember_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVEMBED_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_remember_model_notes_the_folder_by_hash(cache: Path, tiny_encoder: KVEncoder, tiny_model_dir: Path) -> None:
    remember_model(tiny_encoder.config)
    known = json.loads((cache / "models.json").read_text())
    assert known == {tiny_encoder.config.identity()["weights_sha256"]: str(tiny_model_dir)}
    before = (cache / "models.json").stat().st_mtime_ns
    remember_model(tiny_encoder.config)
    assert (cache / "models.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["", "{broken", "[1, 2]"])
def test_remember_model_damaged_registry_is_replaced(cache: Path, tiny_encoder: KVEncoder, content: str) -> None:
    cache.mkdir()
    (cache / "models.json").write_text(content)
    remember_model(tiny_encoder.config)
    assert len(json.loads((cache / "models.json").read_text())) == 1


def test_remember_model_cache_that_cannot_be_written_is_done_without(cache: Path, tiny_encoder: KVEncoder) -> None:
    cache.write_text("a file where the folder should be")
    remember_model(tiny_encoder.config)
    assert cache.is_file()


def test_find_model_registry_that_points_elsewhere_is_not_believed(
    cache: Path, tiny_encoder: KVEncoder, tmp_path: Path
) -> None:
    """The registry is a hint; the hashes decide."""
    client = QdrantClient(":memory:")
    ingest([Document("a", "text", "a")], client, "notes", tiny_encoder)
    weights = tiny_encoder.config.identity()["weights_sha256"]
    (cache / "models.json").write_text(json.dumps({str(weights): str(tmp_path)}))
    with pytest.raises(ModelUnavailableError, match=r"tried .*no config\.json"):
        open_collection(client, "notes")
