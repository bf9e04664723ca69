"""Bad input: one clear message, the documented exit code, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from qdrant_client.local.persistence import CollectionPersistence
from transformers import BertConfig, BertModel

from kvembed import KVEncoder
from pipelines.store import open_store
from tests.conftest import train_tokenizer
from tests.pipelines.command_line import Command, Outcome, handbook, kvembed

__all__ = ["handbook", "kvembed"]


def is_one_message(outcome: Outcome) -> bool:
    return (
        outcome.out == ""
        and outcome.err.startswith("Error: ")
        and outcome.err.count("\n") == 1
        and "Traceback" not in outcome.err
    )


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "words"),
    [
        (("index", "nowhere", "-c", "hb"), 1, "SourceError", "no file or folder at nowhere"),
        (("index", "empty", "-c", "hb"), 1, "SourceError", "nothing to index in empty"),
        (("index", "pictures", "-c", "hb"), 1, "SourceError", "skipped 1 .png"),
        (("index", "handbook", "-c", "a/b"), 1, "InvalidCollectionNameError", "'a/b' is not usable"),
        (("index", "handbook", "-c", ""), 1, "InvalidCollectionNameError", "it is empty"),
        (("index", "handbook", "-c", "hb", "--model", "empty"), 1, "ModelNotFoundError", "has no config.json"),
        (("index", "handbook", "-c", "hb", "--model", "./gone"), 1, "ModelNotFoundError", "not a folder"),
        (("index", "handbook", "-c", "hb", "--model", "Some/Model-1B"), 1, "ModelNotFoundError", "hf download"),
        (("index", "handbook", "-c", "hb", "--store", "handbook"), 1, "StoreError", "holds other files"),
        (("index", "handbook", "-c", "hb", "--store", "handbook/ice.md"), 1, "StoreError", "is a file"),
        (("index", "handbook", "-c", "hb", "--store", "ftp://x"), 1, "StoreError", "neither a folder nor"),
        (("index", "handbook", "-c", "hb", "--device", "abacus"), 1, "ConfigError", "device 'abacus'"),
        (("search", "hb", "words"), 1, "StoreNotFoundError", "there is no store at .kvembed"),
        (("status", "hb"), 1, "StoreNotFoundError", "there is no store"),
        (("verify", "hb"), 1, "StoreNotFoundError", "there is no store"),
        (("evaluate", "handbook"), 1, "SourceError", "not a data set"),
        (("layers", "empty"), 1, "ModelNotFoundError", "has no config.json"),
        (("layers", "empty", "--texts", "gone.txt"), 1, "SourceError", "texts cannot be read from gone.txt"),
        (("index", "handbook"), 2, "MissingParameter", "--collection"),
        (("index", "handbook", "-c", "hb", "--layers", "two"), 2, "BadParameter", "neither auto, nor none"),
        (("index", "handbook", "-c", "hb", "--dtype", "int8"), 2, "BadParameter", "float16"),
        (("index", "handbook", "-c", "hb", "--nonsense"), 2, "NoSuchOption", "--nonsense"),
        (("search", "hb", "words", "-k", "0"), 2, "BadParameter", "limit"),
        (("dance",), 2, "UsageError", "dance"),
    ],
)
def test_bad_input_ends_in_one_message(
    kvembed: Command, handbook: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, kind: str, words: str
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG\x00")
    for_a_person = kvembed(*arguments)
    assert for_a_person.code == code
    assert is_one_message(for_a_person), for_a_person
    assert words in for_a_person.err
    for_a_program = kvembed(*arguments, "--json")
    assert for_a_program.code == code
    assert words in for_a_program.json["error"]["message"]
    assert for_a_program.json["error"]["type"] == kind
    assert for_a_program.err == ""


def test_index_unreadable_folder_is_refused_as_a_whole(
    kvembed: Command, handbook: Path, monkeypatch: pytest.MonkeyPatch
):
    original = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(os.fspath(path)) == handbook:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused = kvembed("index", handbook, "-c", "hb")
    assert refused.code == 1
    assert is_one_message(refused)
    assert "Permission denied" in refused.err


def test_index_with_an_encoder_model_says_what_is_missing(kvembed: Command, handbook: Path, tmp_path: Path):
    config = BertConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    train_tokenizer().save_pretrained(tmp_path / "bert")
    refused = kvembed("index", handbook, "-c", "hb", "--model", tmp_path / "bert", "--json")
    assert refused.code == 1
    assert refused.json["error"]["type"] == "UnsupportedModelError"


def test_search_unknown_collection_lists_those_that_exist(kvembed: Command, handbook: Path, tiny_model_dir: Path):
    kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir, "--layers", "1")
    refused = kvembed("search", "other", "words")
    assert refused.code == 1
    assert is_one_message(refused)
    assert "'hb'" in refused.err


def test_index_into_a_locked_store_says_who_may_hold_it(kvembed: Command, handbook: Path, tiny_model_dir: Path):
    with open_store(".kvembed"):
        refused = kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir)
    assert refused.code == 1
    assert is_one_message(refused)
    assert "in use by another process" in refused.err


def test_index_mass_deletion_is_refused_and_allowed_on_request(kvembed: Command, handbook: Path, tiny_model_dir: Path):
    for number in range(10):
        (handbook / f"more{number}.txt").write_text(f"more text {number}")
    kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir, "--layers", "1")
    for number in range(10):
        (handbook / f"more{number}.txt").unlink()
    refused = kvembed("index", handbook, "-c", "hb", "--json")
    assert refused.code == 1
    assert refused.json["error"]["type"] == "DeletionGuardError"
    assert "--delete all" in refused.json["error"]["message"]
    assert kvembed("status", "--json").json["collections"][0]["documents"] == 13
    assert kvembed("index", handbook, "-c", "hb", "--delete", "all", "--json").json["documents_deleted"] == 10


def test_index_on_a_full_disk_keeps_what_was_committed(
    kvembed: Command, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = many_documents(tmp_path)
    original = CollectionPersistence.persist
    written = 0

    def persist(self: CollectionPersistence, point: Any) -> None:
        nonlocal written
        written += 1
        if written > 60:
            raise sqlite3.OperationalError("database or disk is full")
        original(self, point)

    with monkeypatch.context() as patched:
        patched.setattr(CollectionPersistence, "persist", persist)
        refused = kvembed("index", folder, "-c", "many", "--model", tiny_model_dir, "--layers", "1")
    assert refused.code == 1
    assert is_one_message(refused)
    assert "no space is left" in refused.err
    assert_next_run_completes(kvembed, folder)


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_index_stopped_by_a_signal_says_so_and_continues(
    kvembed: Command, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, stop: int, code: int
):
    folder = many_documents(tmp_path)
    original = KVEncoder.encode_counted
    batches = 0

    def interrupted(self: KVEncoder, texts: Any, role: Any, **options: Any) -> Any:
        nonlocal batches
        batches += len(texts) > 1
        if batches == 2:
            signal.raise_signal(stop)
        return original(self, texts, role, **options)

    # A background job of a script starts with SIGINT ignored, and so would these tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(KVEncoder, "encode_counted", interrupted)
            stopped = kvembed("index", folder, "-c", "many", "--model", tiny_model_dir, "--layers", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.code == code
    assert is_one_message(stopped)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "continues" in stopped.err
    assert_next_run_completes(kvembed, folder)


def test_unexpected_error_is_one_line_and_a_traceback_only_on_request(
    kvembed: Command, handbook: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("pipelines.cli_index.load_encoder", broken)
    shown = kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir)
    assert shown.code == 1
    assert is_one_message(shown)
    assert "RuntimeError: first line (unexpected; run again with --debug for the traceback)" in shown.err
    debugged = kvembed("index", handbook, "-c", "hb", "--model", tiny_model_dir, "--debug", "--json")
    assert "Traceback" in debugged.err
    assert "second line" in debugged.err
    assert debugged.json["error"]["type"] == "RuntimeError"


@pytest.mark.parametrize("arguments", [("--version",), ("status", "--json")], ids=" ".join)
def test_stdout_whose_reader_went_away_is_no_traceback(tmp_path: Path, arguments: tuple[str, ...]):
    with open_store(tmp_path / ".kvembed"):
        pass
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    os.close(writer)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("arguments", [("--help",), ("status", "--json")], ids=" ".join)
def test_stdout_on_a_full_disk_is_one_message(tmp_path: Path, arguments: tuple[str, ...]):
    with open_store(tmp_path / ".kvembed"):
        pass
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", [(), ("--flow",)], ids=["directly", "flow"])
@pytest.mark.parametrize(
    ("stop", "code", "kind"), [(signal.SIGINT, 130, "KeyboardInterrupt"), (signal.SIGTERM, 143, "Terminated")]
)
def test_process_stopped_by_a_signal_prints_one_message(
    tmp_path: Path, tiny_model_dir: Path, stop: int, code: int, kind: str, way: tuple[str, ...]
):
    folder = many_documents(tmp_path, 3000)
    process = subprocess.Popen(
        [sys.executable, "-c", "from pipelines.cli import main; main()", "index", str(folder), "-c", "many",
         "--model", str(tiny_model_dir), "--layers", "1", "--json", *way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "KVEMBED_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    collections = tmp_path / ".kvembed" / "collection"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(collections.glob("*--ledger")):
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert json.loads(out)["error"]["type"] == kind
    assert err == ""


def many_documents(tmp_path: Path, count: int = 100) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.txt").write_text(f"document number {number} tells of {number * 7919 % 1000}")
    return folder


def assert_next_run_completes(kvembed: Command, folder: Path) -> None:
    """What was committed is not embedded again, and nothing is missing in the end."""
    count = len(list(folder.iterdir()))
    before = kvembed("status", "--json").json["collections"][0]
    assert 0 < before["documents"] < count
    rest = kvembed("index", folder, "-c", "many", "--json")
    assert rest.code == 0
    assert rest.json["chunks_embedded"] < count
    assert rest.json["documents_unchanged"] + rest.json["documents_added"] + rest.json["documents_changed"] == count
    assert kvembed("verify", "many").code == 0
    assert kvembed("status", "--json").json["collections"][0]["documents"] == count
