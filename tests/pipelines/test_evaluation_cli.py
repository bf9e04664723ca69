"""`kvembed evaluate` and `kvembed compare` as continuous integration calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluation import EvaluationResult, read_results, running, systems, write_results
from tests.pipelines.command_line import Command, kvembed
from tests.pipelines.evaluations import plain_score, small_result

__all__ = ["kvembed"]

CORPUS = {"ice": "cold ice melts in the sun", "bread": "bread is baked from flour", "ship": "ships float on water"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    rows = ({"_id": name, "title": "", "text": text} for name, text in CORPUS.items())
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q/1", "text": "baked flour"}) + "\n")
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq/1\tbread\t1\nq/1\tgone\t1\n")
    return folder


@pytest.fixture(autouse=True)
def _scored_by_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "score", plain_score)
    monkeypatch.setattr("pipelines.evaluation.measures.require_ranx", lambda: None)
    monkeypatch.setattr(running, "require_ranx", lambda: None)
    monkeypatch.setattr("pipelines.evaluation.questions.require_ranx", lambda: None)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A result of two systems, the first the better, and one of the worse alone under another name."""
    result = small_result("bm25", "kv-rerouting", count=40)
    return write_results(result, tmp_path / "a"), write_results(result.led_by("kv-rerouting"), tmp_path / "b")


def test_evaluate_writes_what_it_prints_and_compare_reads_it(
    kvembed: Command, dataset: Path, tiny_model_dir: Path, tmp_path: Path
):
    options = ("--model", tiny_model_dir, "--layers", "1", "--json")
    printed = kvembed("evaluate", dataset, *options, "--output", tmp_path / "out")
    assert printed.code == 0, printed.err
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {key: printed.json[key] for key in written if key != "schema"} == {
        key: value for key, value in written.items() if key != "schema"
    }
    assert printed.json["failures"] == []
    assert printed.json["command"] == f"kvembed evaluate small --model {tiny_model_dir.name} --layers 1 --output out"
    assert printed.json["versions"]["torch"]
    assert str(tmp_path) not in json.dumps(written).replace(str(tiny_model_dir), "")
    assert list(read_results(tmp_path / "out").queries) == ["q/1"]
    compared = kvembed("compare", tmp_path / "out", tmp_path / "out", "--json")
    assert compared.code == 0
    assert compared.json["metrics"]["ndcg@10"]["p_corrected"] == 1.0
    assert compared.json["configuration"] == {}
    assert compared.json["fingerprints"] == dict.fromkeys("ab", written["fingerprint"])
    assert compared.json["encoders"]["a"]["layers"] == [1]


def test_evaluate_below_a_threshold_ends_with_1_and_says_by_how_much(
    kvembed: Command, dataset: Path, tiny_model_dir: Path
):
    options = ("--model", tiny_model_dir, "--layers", "1", "--json")
    failed = kvembed(
        "evaluate", dataset, *options, "--fail-under", "hit@1=0", "--fail-under", "recall@100=0.5,ndcg@10=1"
    )
    value = failed.json["metrics"]["ndcg@10"]
    assert failed.json["metrics"]["recall@100"] == 0.5
    assert value < 1.0
    assert failed.code == 1
    assert failed.json["failures"] == [f"ndcg@10 is {value:.4f}, below 1"]
    assert f"Failed: ndcg@10 is {value:.4f}, below 1" in failed.err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "ndgc@10=0.4",
            "names no metric; give metric=value, of ndcg@10, recall@10, recall@100, mrr@10, map@100, hit@1",
        ),
        ("ndcg@10=40", "gives no value from 0 to 1"),
        ("ndcg@10", "gives no value from 0 to 1"),
        ("ndcg@10=nan", "gives no value from 0 to 1"),
    ],
)
def test_thresholds_that_cannot_be_meant_are_wrong_usage(kvembed: Command, given: str, words: str):
    """Found before anything runs: an hour of encoding must not end in a misspelt metric."""
    for command in (("evaluate", "nowhere"), ("compare", "nowhere", "nowhere")):
        wrong = kvembed(*command, "--fail-under", given)
        assert wrong.code == 2
        assert words in wrong.err


def test_evaluate_into_a_folder_of_other_things_is_refused_before_the_work(kvembed: Command, dataset: Path):
    refused = kvembed("evaluate", dataset, "--model", "/nowhere", "--output", dataset)
    assert refused.code == 1
    assert "holds other things than a result" in refused.err


def test_evaluate_questions_against_a_collection(kvembed: Command, tiny_model_dir: Path, tmp_path: Path, dataset: Path):
    store = ("--store", tmp_path / "store")
    fields = ("--id-field", "_id", "--text-field", "text", "--title-field", "title")
    model = ("--model", tiny_model_dir, "--layers", "1")
    assert kvembed("index", dataset / "corpus.jsonl", "-c", "small", *store, *fields, *model).code == 0
    rows = [{"question": "flour?", "document_id": "bread"}, {"question": "sun?", "document_id": ["ice", "gone\x1b[2J"]}]
    asked = tmp_path / "questions.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = kvembed("evaluate", asked, "-c", "small", *store, "--json", "-o", tmp_path / "out")
    assert found.code == 0, found.err
    assert (found.json["collection"], found.json["queries"], found.json["judged_missing"]) == ("small", 2, 1)
    assert set(found.json["metrics"]) >= {"hit@1", "hit@5", "hit@10", "mrr@10", "recall@10"}
    assert found.json["per_query"]["2"]["recall@100"] == 0.5
    assert read_results(tmp_path / "out").collection == "small"
    shown = kvembed("evaluate", asked, "-c", "small", *store)
    assert "1 judged documents missing, counted as not found: gone" in shown.out
    assert "\x1b[2J" not in shown.out
    told = kvembed("evaluate", asked, "-c", "small", *store, "--prefix-bias", "2", "--max-tokens", "64")
    assert told.code == 2
    assert "--prefix-bias, --max-tokens: a collection is searched as it was filled" in told.err


def test_evaluate_a_questions_file_without_a_collection_says_what_is_missing(kvembed: Command, tmp_path: Path):
    (tmp_path / "questions.jsonl").write_text('{"question": "a?", "document_id": "x"}\n')
    wrong = kvembed("evaluate", tmp_path / "questions.jsonl")
    assert wrong.code == 1
    assert "--collection" in wrong.err


def test_evaluate_a_store_without_a_collection_is_wrong_usage(kvembed: Command, dataset: Path):
    wrong = kvembed("evaluate", dataset, "--store", "somewhere")
    assert wrong.code == 2
    assert "--store says where a --collection is" in wrong.err


def test_compare_shows_every_metric_and_gates_on_a_drop(kvembed: Command, two: tuple[Path, Path]):
    worse, better = two
    found = kvembed("compare", worse, better, "--json", "--max-drop", "ndcg@10=0.0")
    assert found.code == 0
    assert (found.json["first"], found.json["second"], found.json["queries"]) == ("bm25", "kv-rerouting", 40)
    ndcg = found.json["metrics"]["ndcg@10"]
    assert ndcg["difference"]["low"] <= ndcg["difference"]["mean"] <= ndcg["difference"]["high"]
    assert ndcg["second"] > ndcg["first"] + 0.01
    failed = kvembed("compare", better, worse, "--max-drop", "ndcg@10=0.01,hit@10=1")
    assert failed.code == 1
    assert "Failed: ndcg@10 dropped by" in failed.err
    assert "0.01 is allowed" in failed.err
    assert "kv-rerouting against" not in failed.out
    assert "bm25 against kv-rerouting: 40 queries" in failed.out


def test_compare_a_system_beside_the_first_is_named_by_its_folder(kvembed: Command, two: tuple[Path, Path]):
    first, _ = two
    found = kvembed("compare", first, first / "kv-rerouting", "--json", "--fail-under", "ndcg@10=1")
    assert (found.json["first"], found.json["second"]) == ("bm25", "kv-rerouting")
    assert found.code == 1
    assert len(found.json["failures"]) == 1


def test_compare_other_queries_is_refused_unless_only_shared_ones_are_meant(
    kvembed: Command, two: tuple[Path, Path], tmp_path: Path
):
    fewer: EvaluationResult = small_result("mean", count=39)
    write_results(fewer, tmp_path / "fewer")
    refused = kvembed("compare", two[0], tmp_path / "fewer", "--json")
    assert refused.code == 1
    assert "pass --shared" in refused.json["error"]["message"]
    shared = kvembed("compare", two[0], tmp_path / "fewer", "--shared", "--json")
    assert shared.code == 0
    assert (shared.json["queries"], shared.json["left_out"]) == (39, 1)


def test_compare_what_is_no_result_says_how_to_write_one(kvembed: Command, tmp_path: Path):
    wrong = kvembed("compare", tmp_path, tmp_path)
    assert wrong.code == 1
    assert "kvembed evaluate DATASET --output FOLDER" in wrong.err
