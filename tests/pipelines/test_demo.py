"""The demonstration: honest labels, and a second run that does nothing."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kvembed import EncoderConfig, KVEncoder
from pipelines import demo, ingest
from pipelines.demo import DEPTH, best_documents, read_questions, run_demo
from pipelines.rendering_measures import demo_result
from pipelines.retrieval import open_collection
from pipelines.stdlib_docs import stdlib_documents
from tests.pipelines.command_line import Command, kvembed

__all__ = ["kvembed"]

# Gone in Python 3.13, so none of them may be the only right answer.
REMOVED = {"aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "imp", "mailcap"} | {
    "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib",
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> Mapping[str, str]:
    """Documentation of this Python's standard library, by module."""
    loaded = set(sys.modules)
    texts = dict(stdlib_documents())
    assert not {name for name in set(sys.modules) - loaded if name in texts}, "modules are read, never imported"
    return texts


def test_stdlib_documents_of_this_python_are_as_many_tokens_as_promised(library: Mapping[str, str]):
    assert len(library) > 200
    assert 350_000 < sum(map(len, library.values())) < 700_000  # 100,000 to 200,000 tokens


def test_questions_are_enough_and_labelled_with_modules_that_exist(library: Mapping[str, str]):
    questions = read_questions()
    assert len(questions) >= 30
    assert len({question.question for question in questions}) == len(questions)
    assert sum(question.shown for question in questions) == 6
    for question in questions:
        assert question.modules
        assert question.modules <= set(library), question
        assert question.modules - REMOVED, question


def run_here(source: str, store: str, name: str, model: str, *, layers: Any, **options: Any) -> object:
    """What the flow does, without Prefect."""
    encoder = KVEncoder(EncoderConfig(model=model, layers=layers), device="cpu")
    return ingest(source, store, name, encoder, delete=options["delete"], progress=options["progress"])


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    """A demonstration of a few modules, with a random model and without Prefect."""

    def few(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("gzip", "zipfile", "argparse", "statistics", "graphlib", "smtplib", "gettext"):
            (folder / f"{name}.md").write_text(f"# {name}\n\nAll about {name}.\n\n## {name}.run()\n\nRun {name}.\n")

    monkeypatch.setattr(demo, "write_stdlib_documents", few)
    monkeypatch.setattr(demo, "find_runner", lambda: run_here)
    monkeypatch.setattr(demo, "DEMO_MODEL", str(tiny_model_dir))


@pytest.mark.usefixtures("small_demo")
def test_demo_command_twice_embeds_once(kvembed: Command):
    first = kvembed("demo", "--json")
    assert first.code == 0, first
    assert first.json["ingest"]["documents_added"] == 7
    assert first.json["ingest_without_rerouting"]["layers"] == []
    assert first.json["questions"] == len(first.json["answers"]) >= 30
    assert 0 <= first.json["hit@5"] <= 1
    assert 0 <= first.json["hit@5_without_rerouting"] <= 1
    found = [answer["found"] for answer in first.json["answers"]]
    assert first.json["hit@5"] == sum(found) / len(found)
    for answer in first.json["answers"]:
        assert answer["found"] == bool(set(answer["right"]) & set(answer["modules"]))
        assert len(answer["modules"]) == len(set(answer["modules"])) == DEPTH

    second = kvembed("demo")
    assert second.code == 0
    assert "Nothing changed since the last run, so nothing was embedded" in second.out
    assert second.out.count("1. ") >= 6
    assert "without re-routing" in second.out
    assert "it says nothing about re-routing in large models" in " ".join(second.out.split())


@pytest.mark.usefixtures("small_demo")
def test_best_documents_are_distinct_and_in_order(tmp_path: Path):
    result = run_demo(str(tmp_path / "store"))
    assert isinstance(result.to_dict(), Mapping)
    with open_collection(str(tmp_path / "store"), demo.COLLECTION, model=demo.DEMO_MODEL) as opened:
        pinned = opened.pinned()
        hits = best_documents(pinned, pinned.encoder.encode_query(["gzip"])[0], 3)
    assert len({hit.document_id for hit in hits}) == 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    console = Console(width=100, record=True, file=io.StringIO())
    demo_result(result)(console)
    assert all(len(line) <= 100 for line in console.export_text().splitlines())
