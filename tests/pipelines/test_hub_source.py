"""Datasets from a local folder; the hub itself is replaced, so that no test needs the network."""

from __future__ import annotations

import json

import datasets
import pytest

from pipelines.documents import RejectedDocument
from pipelines.errors import SourceError, TransientError
from pipelines.sources import open_source


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def folder(path, **splits):
    path.mkdir(parents=True)
    for name, rows in splits.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(spec, **fields):
    return list(open_source(f"hf:{spec}", **fields).documents())


def test_hub_local_folder_is_streamed_twice_with_its_name_only(tmp_path):
    path = folder(tmp_path / "data", train=[{"id": "a", "text": "x", "year": 1}, {"id": "b", "text": "y", "year": 2}])
    source = open_source(f"hf:{path}")
    first = list(source.documents())
    assert [document.id for document in first] == ["a", "b"]
    assert first[0].source == "hf:data"
    assert first[0].metadata == {"year": 1}
    assert list(source.documents()) == first


def test_hub_without_id_field_numbers_the_rows(tmp_path):
    path = folder(tmp_path / "data", train=[{"text": "x"}, {"text": "y"}])
    assert [document.id for document in read(path)] == ["0", "1"]


def test_hub_bad_row_is_rejected_with_its_number(tmp_path):
    path = folder(tmp_path / "data", train=[{"id": 1, "text": "x"}, {"id": 2, "text": None}])
    rejected = read(path)[1]
    assert isinstance(rejected, RejectedDocument)
    assert rejected.reason.startswith("row 1: text is NoneType None")


def test_hub_missing_text_field_names_the_fields_found(tmp_path):
    path = folder(tmp_path / "data", train=[{"id": 1, "summary": "x"}])
    with pytest.raises(SourceError, match=r"for the text .* found: 'id', 'summary'"):
        read(path)
    assert read(path, text_field="summary")[0].text == "x"


def test_hub_several_splits_ask_for_one(tmp_path):
    path = folder(tmp_path / "data", train=[{"text": "x"}], test=[{"text": "y"}])
    with pytest.raises(SourceError, match=r"has the splits 'train', 'test'; name one, for example hf:.*::train"):
        read(path)
    assert read(f"{path}:test")[0].text == "y"
    assert read(f"{path}::test")[0].text == "y"
    assert read(f"{path}:default:test")[0].text == "y"
    with pytest.raises(SourceError, match=r"cannot be opened: .*nosuch.*check the name as hf:NAME"):
        read(f"{path}:nosuch")


def test_hub_single_part_is_a_configuration_where_there_is_one(tmp_path):
    path = folder(tmp_path / "data", english=[{"text": "x"}], german=[{"text": "y"}])
    (path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files: english.jsonl\n- config_name: de\n"
        "  data_files: german.jsonl\n---\n"
    )
    assert read(f"{path}:de")[0].text == "y"
    assert read(f"{path}:en:train")[0].text == "x"


def test_hub_folder_of_save_to_disk_is_read(tmp_path):
    datasets.Dataset.from_dict({"id": ["a"], "text": ["x"]}).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one")[0].id == "a"
    one = datasets.Dataset.from_dict({"id": ["a"], "text": ["x"]})
    datasets.DatasetDict(train=one, test=one).save_to_disk(tmp_path / "two")
    assert read(f"{tmp_path / 'two'}:test")[0].id == "a"
    with pytest.raises(SourceError, match="has the splits 'train', 'test'"):
        read(tmp_path / "two")


def test_hub_image_column_is_left_out_of_metadata(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "blob": datasets.Value("binary")})
    datasets.Dataset.from_dict({"text": ["x"], "blob": [b"\x00"]}, features=features).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one")[0].metadata == {}


def test_hub_without_network_says_what_to_do():
    with pytest.raises(
        SourceError, match=r"cannot be opened: ConnectionError.*hf download no/such --repo-type dataset"
    ):
        read("no/such")


def test_hub_unnamed_or_in_four_parts_is_refused():
    with pytest.raises(SourceError, match="names no dataset"):
        read("")
    with pytest.raises(SourceError, match="has 4 parts; legal is hf:NAME"):
        read("a:b:c:d")


def test_hub_empty_dataset_is_an_error(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(list))
    with pytest.raises(SourceError, match=r"nothing to index in hf:some/data: no rows"):
        read("some/data")


def test_hub_connection_that_breaks_on_the_way_may_be_retried(monkeypatch):
    def rows():
        yield {"id": 1, "text": "x"}
        raise TimeoutError("read timed out")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    documents = open_source("hf:some/data").documents()
    assert next(documents).id == "1"
    with pytest.raises(TransientError, match=r"cannot be read to its end: .*run again when the network is back"):
        next(documents)
