"""`kvembed report` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluation import running, systems, write_results
from pipelines.evaluation.sweep_files import write_sweep
from tests.pipelines.command_line import Command, kvembed
from tests.pipelines.evaluations import plain_score, small_result
from tests.pipelines.reports import strictly
from tests.pipelines.sweeps import small_sweep

__all__ = ["kvembed"]


def test_report_writes_a_page_and_markdown(kvembed: Command, tmp_path: Path):
    results = write_results(small_result("kv-rerouting", "bm25"), tmp_path / "results")
    written = kvembed("report", results, "-o", tmp_path / "new" / "page.html", "--queries", "1")
    assert written.code == 0, written.err
    strictly((tmp_path / "new" / "page.html").read_text())
    assert (tmp_path / "new" / "page.md").read_text().startswith("# Evaluation: small\n")
    assert "small: how well, differences, query by query, by length, queries, what it took" in " ".join(
        written.out.split()
    )
    again = kvembed("report", results, "-o", tmp_path / "new" / "page.html", "--json")
    assert again.json == {
        "html": str(tmp_path / "new" / "page.html"),
        "markdown": str(tmp_path / "new" / "page.md"),
        "sections": ["small"],
    }


def test_report_of_a_system_beside_the_first_is_led_by_it(kvembed: Command, tmp_path: Path):
    results = write_results(small_result("kv-rerouting", "bm25"), tmp_path / "results")
    assert kvembed("report", results / "bm25", "-o", "page.html", "--queries", "0").code == 0
    assert "bm25 less each other system, ndcg@10" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--output", "page.pdf"), 2, "page.pdf is not named as a page; name it .html"),
        (("--metric", "ndgc@10"), 2, "'ndgc@10' is no metric; there are ndcg@10, recall@10"),
        (("--queries", "-1"), 2, "0"),
        (("--against", "echo"), 1, "no system 'echo' in this result; it has kv-rerouting"),
        (("nowhere",), 1, "nowhere holds no result; give folders that `kvembed evaluate --output` or"),
        (("--output", "results/summary.json/page.html"), 1, "a report cannot be written to results/summary.json"),
    ],
)
def test_report_of_what_cannot_be_meant_is_refused(
    kvembed: Command, tmp_path: Path, options: tuple[str, ...], code: int, words: str
):
    write_results(small_result(), tmp_path / "results")
    refused = kvembed("report", "results", *options)
    assert refused.code == code
    assert words in " ".join(refused.err.replace("│", " ").split())
    assert not (tmp_path / "report.html").exists()


def test_report_of_a_damaged_sweep_names_what_is_wrong(kvembed: Command, tmp_path: Path):
    folder = write_sweep(small_sweep(), tmp_path / "sweep")
    (folder / "sweep.json").write_text("{")
    refused = kvembed("report", folder)
    assert refused.code == 1
    assert "holds no sweep that can be read" in refused.err


def test_evaluate_report_writes_the_page_with_the_result(
    kvembed: Command, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """One command from a data set to a page, with the texts of its documents."""
    monkeypatch.setattr(systems, "score", plain_score)
    monkeypatch.setattr("pipelines.evaluation.measures.require_ranx", lambda: None)
    monkeypatch.setattr(running, "require_ranx", lambda: None)
    data = tmp_path / "small"
    data.mkdir()
    corpus = {"ice": "cold ice melts in the sun", "bread": "bread is baked from <b>flour</b>"}
    rows = ({"_id": name, "title": "", "text": text} for name, text in corpus.items())
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "baked flour"}) + "\n")
    (data / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tbread\t1\n")
    options = ("--model", tiny_model_dir, "--layers", "1", "--json")
    refused = kvembed("evaluate", data, "--model", "/nowhere", "--report", data / "corpus.jsonl" / "page.html")
    assert refused.code == 1
    assert "a report cannot be written to" in refused.err, "found before the model is looked for"
    evaluated = kvembed("evaluate", data, *options, "--report", "page.html")
    assert evaluated.code == 0, evaluated.err
    page = (tmp_path / "page.html").read_text()
    strictly(page)
    assert f"{evaluated.json['metrics']['mrr@10']:.4f}" in page
    assert evaluated.json["fingerprint"] in page.replace("<wbr>", "")
    assert "bread is baked from &lt;b&gt;flour&lt;/b&gt;" in page
    assert f"kvembed evaluate small --model {tiny_model_dir.name} --layers 1 --report page.html" in page
    assert "Report: page.html and page.md" in evaluated.err
