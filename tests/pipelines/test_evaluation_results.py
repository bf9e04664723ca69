"""Results on disk: what was written is read back, and other tools read the same figures from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import pytrec_eval

from pipelines import SourceError, TerminalError
from pipelines.evaluation import METRICS, EvaluationResult, read_results, write_results
from pipelines.evaluation.trec_files import read_run
from tests.pipelines.evaluations import small_result


def untied(result: EvaluationResult) -> EvaluationResult:
    """The result without scores, which come back a least step apart where they were tied."""
    return dataclasses.replace(
        result,
        systems=tuple(
            dataclasses.replace(
                system, rankings={query: [name for name, _ in found] for query, found in system.rankings.items()}
            )
            for system in result.systems
        ),
    )


def test_write_results_are_read_back(tmp_path: Path):
    small = small_result("kv-rerouting", "bm25", "mean")
    profiled = dataclasses.replace(small.main, layer_profile={"layers": [2, 3], "dimensions": [9.0, 8.5]})
    written = dataclasses.replace(small, systems=(profiled, *small.systems[1:]), command="kvembed evaluate small")
    read = read_results(write_results(written, tmp_path / "out"))
    assert untied(read) == untied(written)
    for before, after in zip(written.systems, read.systems, strict=True):
        for query, ranking in before.rankings.items():
            assert [score for _, score in after.rankings[query]] == pytest.approx([s for _, s in ranking], abs=1e-5)


def test_write_results_keeps_queries_with_an_empty_ranking(tmp_path: Path):
    written = small_result()
    query = next(iter(written.queries))
    nothing = dataclasses.replace(written.main, rankings={**written.main.rankings, query: ()})
    read = read_results(write_results(dataclasses.replace(written, systems=(nothing,)), tmp_path / "out"))
    assert read.main.rankings[query] == ()
    assert read.first_relevant_rank(read.main, query) is None


@pytest.mark.parametrize("place", [0, 1])
def test_run_file_gives_pytrec_eval_the_figures_of_per_query(tmp_path: Path, place: int):
    """Tied scores are where tools part: trec_eval sorts by score in 32 bits and turns ties by id backwards."""
    folder = write_results(small_result("kv-rerouting", "bm25"), tmp_path / "out")
    own = folder if place == 0 else folder / "bm25"
    with (folder / "qrels.trec").open() as qrels, (own / "run.trec").open() as run:
        judgements, rankings = pytrec_eval.parse_qrel(qrels), pytrec_eval.parse_run(run)
    measures = {"ndcg_cut.10", "recall.10,100", "map_cut.100", "success.1,5,10", "recip_rank"}
    trec = pytrec_eval.RelevanceEvaluator(judgements, measures).evaluate(rankings)
    lines = [json.loads(line) for line in (own / "per_query.jsonl").read_text().splitlines()]
    assert len(lines) == len(trec) == 12
    for (_, theirs), line in zip(trec.items(), lines, strict=True):
        ours = line["metrics"]
        assert ours["ndcg@10"] == pytest.approx(theirs["ndcg_cut_10"], abs=1e-6)
        assert ours["map@100"] == pytest.approx(theirs["map_cut_100"], abs=1e-6)
        for cut in (10, 100):
            assert ours[f"recall@{cut}"] == pytest.approx(theirs[f"recall_{cut}"], abs=1e-6)
        for cut in (1, 5, 10):
            assert ours[f"hit@{cut}"] == theirs[f"success_{cut}"]
        within = theirs["recip_rank"] if line["first_relevant_rank"] <= 10 else 0.0
        assert ours["mrr@10"] == pytest.approx(within, abs=1e-6)
        assert theirs["recip_rank"] == pytest.approx(1 / line["first_relevant_rank"], abs=1e-6)


def test_write_results_ids_keep_their_slashes_and_their_white_space_is_escaped(tmp_path: Path):
    folder = write_results(small_result(), tmp_path / "out")
    first = (folder / "run.trec").read_text().splitlines()[0].split()
    assert len(first) == 6
    assert first[0] == "set/a%20b%25200"
    assert first[2].startswith("docs/a%20b/")
    assert set(read_run(folder / "run.trec")) == set(small_result().queries)


def test_write_results_replaces_an_earlier_result_and_nothing_of_it_stays(tmp_path: Path):
    write_results(small_result("kv-rerouting", "bm25"), tmp_path / "out")
    write_results(small_result("last-token"), tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert found == {"summary.json", "qrels.trec", "per_query.jsonl", "run.trec"}


def test_write_results_into_a_folder_of_other_things_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TerminalError, match="holds other things than a result"):
        write_results(small_result(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_read_results_of_one_system_s_folder_puts_it_first(tmp_path: Path):
    write_results(small_result("kv-rerouting", "bm25"), tmp_path / "out")
    assert [system.name for system in read_results(tmp_path / "out" / "bm25").systems] == ["bm25", "kv-rerouting"]


@pytest.mark.parametrize("name", ["summary.json", "qrels.trec", "per_query.jsonl", "run.trec"])
def test_read_results_without_one_of_its_files_says_how_to_write_them(tmp_path: Path, name: str):
    folder = write_results(small_result(), tmp_path / "out")
    (folder / name).unlink()
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        read_results(folder)


def test_read_results_of_a_later_layout_is_refused(tmp_path: Path):
    folder = write_results(small_result(), tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "schema": 99}))
    with pytest.raises(SourceError, match="layout 99; this version reads 1"):
        read_results(folder)


def test_summary_names_configuration_and_cost_and_no_query(tmp_path: Path):
    folder = write_results(small_result("kv-rerouting", "bm25"), tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["metrics"]) == set(METRICS)
    assert [system["name"] for system in summary["systems"]] == ["kv-rerouting", "bm25"]
    first = summary["systems"][0]
    assert first["metrics"]["ndcg@10"]["low"] < summary["metrics"]["ndcg@10"] < first["metrics"]["ndcg@10"]["high"]
    assert first["identity"]["model"] == "fake/hashed-words"
    assert first["figures"]["tokens_per_second"] == pytest.approx(600.0)
    assert first["figures"]["truncation_rate"] == pytest.approx(1 / 3)
    assert first["figures"]["peak_memory_bytes"] == 2**28
    assert summary["fingerprint"] == "f" * 64
    assert "What is" not in json.dumps(summary)
    assert str(tmp_path) not in json.dumps(summary)


@pytest.mark.parametrize("name", ["", "a b", "../up", "-rf", "a/b"])
def test_system_of_a_name_that_is_no_folder_is_refused(name: str):
    with pytest.raises(TerminalError, match="a system's name is"):
        small_result(name)


def test_result_of_two_systems_of_one_name_is_refused():
    with pytest.raises(TerminalError, match="different names"):
        small_result("bm25", "BM25")


def test_read_results_without_command_and_profile_are_read(tmp_path: Path):
    """As they were written before these were kept."""
    folder = write_results(small_result(), tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    del summary["command"], summary["systems"][0]["layer_profile"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert (read_results(folder).command, read_results(folder).main.layer_profile) == ("", None)
