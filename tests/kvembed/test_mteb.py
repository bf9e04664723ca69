"""The mteb adapter, judged by mteb's own tasks over local data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import ndcg_score

from kvembed import ConfigError, EncoderConfig, KVEncoder, LayersUnresolvedError

mteb = pytest.importorskip("mteb")

from mteb.models.model_implementations import MODEL_REGISTRY  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from kvembed.mteb import MTEBEncoder, load_for_mteb, model_meta, register  # noqa: E402
from tests.kvembed.local_tasks import (  # noqa: E402
    DOCUMENTS,
    PAIRS,
    QUERIES,
    RELEVANT,
    LocalClassification,
    LocalRetrieval,
    LocalSTS,
    described,
)

STS = described("STS", "cosine_spearman")


@pytest.fixture
def _registry() -> Iterator[None]:
    """Give mteb its registry back as it was."""
    before = dict(MODEL_REGISTRY)
    yield
    MODEL_REGISTRY.clear()
    MODEL_REGISTRY.update(before)


def evaluated(model: object, task: object, folder: Path) -> dict[str, object]:
    """Run one task as a user does, results kept in a folder."""
    found = mteb.evaluate(model, task, cache=mteb.ResultCache(folder), show_progress_bar=False, co2_tracker=False)
    (result,) = found.task_results
    return result.scores["test"][0]


def embedded(encoder: KVEncoder, texts: list[str], **kwargs: object) -> np.ndarray:
    wrapper = MTEBEncoder(encoder, **kwargs.pop("made", {}))  # type: ignore[arg-type]
    loader = DataLoader([{"text": text} for text in texts], batch_size=2)
    return wrapper.encode(loader, **{"task_metadata": STS, "hf_split": "test", "hf_subset": "default", **kwargs})


def test_sts_task_of_mteb_equals_scipy_on_the_document_vectors(tiny_encoder: KVEncoder, tmp_path: Path):
    scores = evaluated(MTEBEncoder(tiny_encoder), LocalSTS(), tmp_path)
    first, second = (tiny_encoder.encode_document([pair[side] for pair in PAIRS]) for side in (0, 1))
    expected = scipy.stats.spearmanr((first * second).sum(axis=1), [pair[2] for pair in PAIRS])[0]
    assert scores["cosine_spearman"] == pytest.approx(expected, abs=1e-9)
    assert scores["spearman"] == scores["cosine_spearman"] == scores["main_score"]


def test_retrieval_task_of_mteb_embeds_queries_and_documents_each_by_its_prompt(
    tiny_encoder: KVEncoder, tmp_path: Path
):
    scores = evaluated(MTEBEncoder(tiny_encoder), LocalRetrieval(), tmp_path)
    documents = tiny_encoder.encode_document([" ".join(both).strip() for both in DOCUMENTS.values()])
    queries = tiny_encoder.encode_query(list(QUERIES.values()))
    gold = np.array([[RELEVANT[query].get(document, 0) for document in DOCUMENTS] for query in QUERIES])
    assert scores["ndcg_at_10"] == pytest.approx(ndcg_score(gold, queries @ documents.T, k=10), abs=1e-5)
    other = ndcg_score(gold, tiny_encoder.encode_document(list(QUERIES.values())) @ documents.T, k=10)
    assert abs(other - scores["ndcg_at_10"]) > 1e-3, "the premise: the prompts make a difference here"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_classification_task_of_mteb_runs(tiny_encoder: KVEncoder, tmp_path: Path):
    assert evaluated(MTEBEncoder(tiny_encoder), LocalClassification(), tmp_path)["accuracy"] >= 0.75


def test_results_are_kept_by_fingerprint(tiny_encoder: KVEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """mteb takes results of the same name and revision from its cache; those of other layers must not be taken."""
    first = evaluated(MTEBEncoder(tiny_encoder), LocalSTS(), tmp_path)
    other = tiny_encoder.with_layers([2])
    second = evaluated(MTEBEncoder(other), LocalSTS(), tmp_path)
    assert abs(first["pearson"] - second["pearson"]) > 1e-4  # what is kept is rounded
    as_queries = evaluated(MTEBEncoder(tiny_encoder, roles={"STS": "query"}), LocalSTS(), tmp_path)
    assert abs(as_queries["pearson"] - first["pearson"]) > 1e-4
    monkeypatch.setattr(MTEBEncoder, "encode", None)
    kept = evaluated(MTEBEncoder(tiny_encoder), LocalSTS(), tmp_path)
    assert kept["pearson"] == pytest.approx(first["pearson"], abs=1e-6)
    again = evaluated(MTEBEncoder(tiny_encoder, roles={"STS": "query"}), LocalSTS(), tmp_path)
    assert again["pearson"] == pytest.approx(as_queries["pearson"], abs=1e-6)


@pytest.mark.parametrize(
    ("prompt_type", "roles", "role"),
    [
        (PromptType.query, {}, "query"),
        (PromptType.document, {}, "document"),
        (None, {}, "document"),
        (None, {"STS": "query"}, "query"),
        (None, {"Clustering": "query"}, "document"),
        (PromptType.document, {"STS": "query"}, "document"),
    ],
)
def test_prompt_follows_prompt_type_and_then_task_type(
    tiny_encoder: KVEncoder, prompt_type: PromptType | None, roles: dict, role: str
):
    texts = ["ice", "bread and salt", "ships"]
    found = embedded(tiny_encoder, texts, prompt_type=prompt_type, made={"roles": roles}, batch_size=1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tiny_encoder.encode_counted(texts, role).vectors)  # type: ignore[arg-type]


def test_meta_tells_what_mteb_asks(tiny_encoder: KVEncoder, tiny_model_dir: Path):
    wrapper = MTEBEncoder(tiny_encoder)
    meta = wrapper.mteb_model_meta
    assert isinstance(wrapper, EncoderProtocol)
    assert meta.name == f"kvembed/{tiny_model_dir.name}-kv-rerouting"
    assert meta.revision == tiny_encoder.fingerprint
    assert (meta.embed_dim, meta.max_tokens, meta.training_datasets) == (64, 512, set())
    assert meta.is_zero_shot_on(["LocalSTS"]) is True
    from transformers import AutoModel

    assert meta.n_parameters == AutoModel.from_pretrained(tiny_model_dir).num_parameters()
    names = {
        model_meta(EncoderConfig(str(tiny_model_dir), **fields)).name.removeprefix(f"kvembed/{tiny_model_dir.name}-")
        for fields in ({"layers": ()}, {"method": "echo"}, {"layers": (2,)})
    }
    assert names == {"no-rerouting", "echo", "kv-rerouting"}


@pytest.mark.usefixtures("_registry")
def test_registered_encoder_is_found_and_loaded_by_its_name(tiny_encoder: KVEncoder, tmp_path: Path):
    meta = register(tiny_encoder.config)
    assert mteb.get_model_meta(meta.name) == meta
    loaded = mteb.get_model(meta.name, device="cpu")
    assert isinstance(loaded, MTEBEncoder)
    expected = evaluated(MTEBEncoder(tiny_encoder), LocalSTS(), tmp_path / "a")
    assert evaluated(meta, LocalSTS(), tmp_path / "b") == expected
    assert register(tiny_encoder.config) == meta
    with pytest.raises(ConfigError, match=r"mteb has another kvembed/.* already"):
        register(tiny_encoder.with_layers([2]).config)


def test_load_of_other_files_than_described_is_refused(tiny_encoder: KVEncoder):
    with pytest.raises(ConfigError, match="its files or this package changed"):
        load_for_mteb("kvembed/tiny", "0" * 64, config=tiny_encoder.config.to_dict(), device="cpu")


def test_cut_texts_are_told(make_encoder, caplog: pytest.LogCaptureFixture):
    encoder = make_encoder(max_length=40)
    with caplog.at_level(logging.WARNING, logger="kvembed.mteb"):
        embedded(encoder, ["short", "long " * 100])
    assert "LocalSTS test default: 1 of 2 texts were cut to 40 tokens" in caplog.text


def test_what_cannot_be_embedded_is_refused(tiny_encoder: KVEncoder, make_encoder):
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        embedded(tiny_encoder, ["ice"], precision="int8")
    loader = DataLoader([{"image": 1}], batch_size=1)
    with pytest.raises(ConfigError, match=r"LocalSTS has \['image'\] and no text"):
        MTEBEncoder(tiny_encoder).encode(loader, task_metadata=STS, hf_split="test", hf_subset="default")
    with pytest.raises(ConfigError, match="roles names 'sts'; legal are mteb's task types"):
        MTEBEncoder(tiny_encoder, roles={"sts": "query"})
    with pytest.raises(ConfigError, match="legal are query and document"):
        MTEBEncoder(tiny_encoder, roles={"STS": "passage"})  # type: ignore[dict-item]
    with pytest.raises(LayersUnresolvedError):
        MTEBEncoder(make_encoder(layers="auto"))
