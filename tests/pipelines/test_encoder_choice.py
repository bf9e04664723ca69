"""The encoder of a run: asked for, else the collection's, else the defaults."""

from __future__ import annotations

import shutil

import pytest

from kvembed import ConfigError
from pipelines import ChunkingConfig, Document, ingest
from pipelines.encoder_choice import open_encoder
from pipelines.errors import ModelUnavailableError
from pipelines.lazy_encoder import LazyEncoder

NOTES = [Document("a", "gzip compresses files", "a.txt"), Document("b", "csv writes tables", "b.txt")]


@pytest.fixture
def filled(tmp_path, make_encoder):
    """A store with a collection that was filled otherwise than by default."""
    ingest(NOTES, tmp_path / "store", "notes", make_encoder(layers=(2,), prefix_bias=0.5))
    return tmp_path / "store"


def test_open_encoder_of_a_collection_is_its_own_and_is_not_loaded(filled, monkeypatch):
    """Contract: a nightly run says nothing of the model, finds nothing changed, and loads no model for it."""
    monkeypatch.setenv("KVEMBED_MODEL", "another/model")
    encoder = open_encoder(filled, "notes", {})
    assert isinstance(encoder, LazyEncoder)
    assert (encoder.config.layers, encoder.config.prefix_bias) == ((2,), 0.5)
    report = ingest(NOTES, filled, "notes", encoder, on_change="refuse")
    assert (report.documents_unchanged, report.chunks_embedded) == (2, 0)
    assert encoder._loaded is None


@pytest.mark.parametrize("fields", [{"prefix_bias": 2.0}, {"layers": [1]}])
def test_open_encoder_takes_what_is_given_and_the_rest_from_the_collection(filled, fields):
    encoder = open_encoder(filled, "notes", fields)
    expected = {"layers": (2,), "prefix_bias": 0.5} | {
        key: tuple(v) if key == "layers" else v for key, v in fields.items()
    }
    assert not isinstance(encoder, LazyEncoder)
    assert {key: getattr(encoder.config, key) for key in expected} == expected


def test_open_encoder_with_another_chunking_is_loaded(filled):
    assert not isinstance(open_encoder(filled, "notes", {}, chunking=ChunkingConfig(max_tokens=32)), LazyEncoder)
    assert not isinstance(open_encoder(filled, "notes", {}, device="cpu"), LazyEncoder), "a device is for loading"


def test_open_encoder_of_a_new_collection_is_that_of_the_settings(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setenv("KVEMBED_MODEL", str(tiny_model_dir))
    encoder = open_encoder(tmp_path / "none", "notes", {"layers": [1]})
    assert (encoder.config.model, encoder.config.layers) == (str(tiny_model_dir), (1,))
    assert open_encoder(tmp_path / "none", "notes", {}).config.layers == "auto"
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_open_encoder_of_another_model_chooses_its_own_layers(filled, tiny_model_dir, tmp_path):
    from tests.conftest import random_llama, save_model

    other = save_model(random_llama(seed=1), tmp_path / "other")
    assert open_encoder(filled, "notes", {"model": str(other)}).config.layers == "auto"
    moved = shutil.copytree(tiny_model_dir, tmp_path / "moved")
    assert open_encoder(filled, "notes", {"model": str(moved)}).config.layers == (2,), "the same model elsewhere"


def test_open_encoder_wrong_field_is_refused_with_the_legal_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown fields \['prefix_bais'\]; legal are"):
        open_encoder(tmp_path, "notes", {"prefix_bais": 1.0})


def test_open_encoder_of_a_model_that_is_gone_says_so(tmp_path, tiny_model_dir, make_encoder, monkeypatch):
    from kvembed import EncoderConfig, KVEncoder

    gone = shutil.copytree(tiny_model_dir, tmp_path / "gone")
    ingest(NOTES, tmp_path / "store", "notes", KVEncoder(EncoderConfig(model=str(gone), layers=(1,)), device="cpu"))
    shutil.rmtree(gone)
    monkeypatch.setenv("KVEMBED_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ModelUnavailableError):
        open_encoder(tmp_path / "store", "notes", {})
