"""What stands beside the system asked about: BM25, and other methods on the same backbone, over the same chunks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytrec_eval
from qdrant_client import QdrantClient, models

from kvembed import EncoderConfig, KVEncoder
from pipelines import ChunkingConfig, Document, StoreError, TerminalError, ingest, open_collection
from pipelines.chunking import Chunker
from pipelines.evaluation import (
    BASELINES,
    BM25Config,
    BM25Index,
    EvaluationResult,
    JudgedQuery,
    baselines,
    bm25_of_chunks,
    bm25_of_collection,
    bm25_of_documents,
    evaluate,
    lexical,
    parse_beside,
    prepare_beside,
    prepare_task,
    read_results,
    running,
    same_chunks,
    system_name,
    systems,
    write_results,
)
from pipelines.sources import open_source
from tests.pipelines.command_line import Command, kvembed
from tests.pipelines.evaluations import plain_score

__all__ = ["kvembed"]

SHIPS = "\n\n".join(f"Paragraph {number}: ships float on water and carry flour." for number in range(40))
CORPUS = [
    {"_id": "ice", "title": "Ice", "text": "cold ice melts in the sun"},
    {"_id": "bread", "title": "Bread", "text": "bread is baked from flour"},
    {"_id": "empty", "title": "", "text": ""},
    {"_id": "long", "title": "Ships", "text": SHIPS},
    {"_id": "tied/b", "title": "", "text": "a kestrel hovers"},
    {"_id": "tied/a", "title": "", "text": "a kestrel hovers"},
    {"_id": "twin", "title": "", "text": "how do ships float"},
]
QUERIES = [
    {"_id": "flour", "text": "baking flours"},
    {"_id": "kestrel", "text": "kestrels hovering"},
    {"_id": "twin", "text": "How do ships  float"},
    {"_id": "unjudged", "text": "nobody looked"},
    {"_id": "foreign", "text": "zzz qqq"},
]
QRELS = (
    "query-id\tcorpus-id\tscore\nflour\tbread\t2\nkestrel\ttied/b\t1\ntwin\ttwin\t1\ntwin\tlong\t1\nforeign\tice\t1\n"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "small"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CORPUS))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    (folder / "qrels.tsv").write_text(QRELS)
    return folder


@pytest.fixture
def by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score without ranx, which compiles for half a minute the first time."""
    monkeypatch.setattr(systems, "score", plain_score)
    monkeypatch.setattr("pipelines.evaluation.measures.require_ranx", lambda: None)
    monkeypatch.setattr(running, "require_ranx", lambda: None)


def tiny(folder: Path, **fields: object) -> KVEncoder:
    return KVEncoder(EncoderConfig(model=str(folder), **{"layers": (1,), **fields}), device="cpu")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(dataset: Path, tiny_model_dir: Path) -> Iterator[EvaluationResult]:
    """All systems at once, over chunks of so many tokens that Echo needs longer sequences than the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "score", plain_score)
        patch.setattr(running, "require_ranx", lambda: None)
        encoder, chunking = tiny(tiny_model_dir, max_length=128), ChunkingConfig(max_tokens=64)
        yield evaluate(dataset, encoder, chunking=chunking, beside=prepare_beside(BASELINES, encoder, chunking))


def test_bm25_equals_its_formula():
    """Lucene's: ln(1 + (N - n + 0.5) / (n + 0.5)) tf / (tf + k1 (1 - b + b l / mean l)), summed over the query."""
    texts = ["the cats sat with a cat", "dogs and dogs run", "a cat runs", ""]
    stems = [["cat", "sat", "cat"], ["dog", "dog", "run"], ["cat", "run"], []]
    found = BM25Index(texts, BM25Config(k1=1.2, b=0.6)).scores("Running CATS, cats or zebras?")
    mean = sum(map(len, stems)) / 4
    expected = []
    for words in stems:
        total = 0.0
        for term in ("run", "cat", "cat"):
            n, tf = sum(term in other for other in stems), words.count(term)
            weight = math.log(1 + (4 - n + 0.5) / (n + 0.5))
            total += weight * tf / (tf + 1.2 * (1 - 0.6 + 0.6 * len(words) / mean))
        expected.append(total)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[0] > 0
    assert found[3] == 0.0


@pytest.mark.parametrize("texts", [[], ["", " .,"]])
def test_bm25_of_texts_without_a_word_finds_nothing(texts: list[str]):
    index = BM25Index(texts, BM25Config())
    assert index.scores("cats").tolist() == [0.0] * len(texts)
    assert BM25Index(["cats"], BM25Config()).scores("of the , a").tolist() == [0.0]


def test_evaluate_beside_all_names_every_system_once(result: EvaluationResult):
    assert [system.name for system in result.systems] == [
        "kv-rerouting",
        *(n for n in BASELINES if n != "kv-rerouting"),
    ]
    fingerprints = [system.fingerprint for system in result.systems]
    assert len(set(fingerprints)) == len(fingerprints)
    assert all(len(one) == 64 for one in fingerprints)
    assert all(system.figures.peak_memory_bytes for system in result.systems)
    methods = {system.name: system.identity["method"] for system in result.systems}
    assert methods["echo"] == "echo/1"
    assert methods["no-rerouting"] == methods["kv-rerouting"] == "kv-rerouting/1"
    assert result.system("no-rerouting").identity["layers"] == []
    assert result.system("no-rerouting").identity["pooling"] == "hybrid"
    assert (result.system("bm25").identity["k1"], result.system("bm25").identity["unit"]) == (1.5, "chunk")


@pytest.mark.usefixtures("by_definition")
def test_systems_beside_search_the_very_chunks_of_the_first(
    dataset: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """Echo at the same max_length would cut at half the length, and a comparison of methods would be one of chunks."""
    encoder, chunking = tiny(tiny_model_dir, max_length=96), ChunkingConfig(max_tokens=256, overlap_tokens=20)
    own = encoder.with_config(encoder.config.with_method("echo"))
    assert own.document_budget < encoder.document_budget < 256
    embedded: dict[str, list[str]] = {}
    encode = KVEncoder.encode_counted

    def noted(self: KVEncoder, texts: Sequence[str], role: str, **options: bool) -> object:
        encoding = encode(self, texts, role, **options)
        if role == "document":
            assert encoding.truncated_tokens.sum() == 0
            embedded.setdefault(system_name(self.config), []).extend(texts)
        return encoding

    monkeypatch.setattr(KVEncoder, "encode_counted", noted)
    indexed: list[str] = []
    monkeypatch.setattr(lexical, "BM25Index", lambda texts, config: indexed.extend(texts) or BM25Index(texts, config))
    result = evaluate(
        dataset,
        encoder,
        chunking=chunking,
        beside=prepare_beside(("bm25", "static", "mean", "echo", "no-rerouting"), encoder, chunking),
    )
    source = open_source(str(dataset / "corpus.jsonl"), id_field="_id", text_field="text", title_field="title")
    expected = {c.embedded_text for d in source.documents() for c in Chunker(chunking, encoder).chunks(d)}  # type: ignore[arg-type]
    assert len(expected) > len(CORPUS)
    assert set(indexed) == expected
    for name in ("kv-rerouting", "static", "mean", "echo", "no-rerouting"):
        assert expected <= set(embedded[name]) <= expected | {"kvembed", *embedded["kv-rerouting"]}, name
    assert {system.figures.chunks for system in result.systems} == {result.main.figures.chunks}
    assert result.system("echo").identity["max_length"] > 96


def test_same_chunks_fits_the_overlap_to_the_smaller_chunk(tiny_model_dir: Path):
    encoder = tiny(tiny_model_dir, max_length=64)
    assert encoder.document_budget < 60
    shared = same_chunks(ChunkingConfig(max_tokens=200, overlap_tokens=100), encoder)
    assert shared.max_tokens == encoder.document_budget
    assert shared.overlap_tokens == encoder.document_budget // 2


def test_what_counts_is_the_same_for_every_system(result: EvaluationResult):
    """A planted self-hit, an empty document, ties, and a query without judgements, of each system."""
    assert list(result.queries) == ["flour", "kestrel", "twin", "foreign"]
    assert (result.counts.self_hits_removed, result.counts.documents_empty, result.counts.unjudged_queries) == (1, 1, 1)
    for system in result.systems:
        for query, ranking in system.rankings.items():
            names = [name for name, _ in ranking]
            assert len(set(names)) == len(names), (system.name, query)
            assert "empty" not in names
        assert "twin" not in dict(system.rankings["twin"]), system.name
        found = dict(system.rankings["kestrel"])
        assert found["tied/a"] == found["tied/b"], system.name
        names = list(found)
        assert names.index("tied/b") == names.index("tied/a") + 1, system.name


def test_bm25_finds_by_stems_and_nothing_by_no_word(result: EvaluationResult):
    for name in ("bm25", "bm25-documents"):
        system = result.system(name)
        assert next(iter(dict(system.rankings["flour"]))) == "bread"
        assert system.rankings["foreign"] == ()
        assert system.per_query["foreign"]["recall@100"] == 0.0
        assert system.figures.tokens_per_second is None
    assert result.system("bm25").figures.chunks > result.system("bm25-documents").figures.chunks == len(CORPUS)


def test_bm25_of_chunks_ranks_a_document_by_its_best(dataset: Path, tiny_model_dir: Path, monkeypatch):
    monkeypatch.setattr(systems, "score", plain_score)
    encoder, chunking = tiny(tiny_model_dir), ChunkingConfig(max_tokens=32)
    task = prepare_task(dataset, encoder.tokenizer, chunking)
    chunks, whole = bm25_of_chunks(task, encoder, chunking), bm25_of_documents(task)
    source = open_source(str(task.corpus), id_field="_id", text_field="text", title_field="title")
    cut = [(d.id, c.embedded_text) for d in source.documents() for c in Chunker(chunking, encoder).chunks(d)]  # type: ignore[arg-type, union-attr]
    scores = BM25Index([text for _, text in cut], BM25Config()).scores("baking flours")
    best = {name: max(s for s, (owner, _) in zip(scores, cut, strict=True) if owner == name) for name, _ in cut}
    assert dict(chunks.rankings["flour"]) == pytest.approx({name: s for name, s in best.items() if s > 0})
    assert dict(whole.rankings["flour"]) != dict(chunks.rankings["flour"])


def test_parse_beside_reads_names_once_and_all():
    assert parse_beside(["bm25, echo", "BM25", "mean"]) == ("bm25", "echo", "mean")
    assert parse_beside(["mean,all"]) == BASELINES
    assert parse_beside([]) == ()
    with pytest.raises(ValueError, match="'bm52' is no system; legal are bm25, bm25-documents, static, last-token"):
        parse_beside(["echo,bm52"])
    with pytest.raises(ValueError, match="'' is no system"):
        parse_beside(["echo,"])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"layers": (1,)}, "kv-rerouting"),
        ({"layers": "auto"}, "kv-rerouting"),
        ({"layers": ()}, "no-rerouting"),
        ({"layers": (1,), "prefix_bias": -math.inf}, "no-rerouting"),
        ({"method": "echo"}, "echo"),
    ],
)
def test_system_name_tells_re_routing_that_re_routes_from_one_that_does_not(fields: dict, name: str):
    assert system_name(EncoderConfig(model="any", **fields)) == name


def test_prepare_beside_of_an_encoder_without_re_routing_has_re_routing():
    for fields in ({"method": "mean"}, {"layers": ()}, {"layers": (1,), "prefix_bias": -math.inf}):
        given = EncoderConfig(model="any", **fields)  # type: ignore[arg-type]
        configs = [baselines.beside_config(name, given) for name in ("kv-rerouting", "no-rerouting")]
        assert [config.layers for config in configs] == ["auto", ()]
        assert configs[0].prefix_bias == 1.0
        assert [config.pooling.value for config in configs] == ["hybrid", "hybrid"]


def test_prepare_beside_keeps_prompts_and_pooling_without_re_routing(tiny_model_dir: Path):
    """So that the difference is re-routing's alone; other methods bring their own prompts."""
    encoder = tiny(tiny_model_dir, pooling="mean", query_template="Q: {text}", max_length=100, dtype="bfloat16")
    config = baselines.beside_config("no-rerouting", encoder.config)
    assert config == replace(encoder.config, layers=())
    other = baselines.beside_config("last-token", encoder.config)
    assert (other.query_template, other.max_length, other.dtype) == ("{text}", 100, "bfloat16")


def test_prepare_beside_the_system_itself_is_refused(tiny_model_dir: Path):
    with pytest.raises(TerminalError, match="mean is the system asked about and cannot stand beside itself"):
        prepare_beside(("bm25", "mean"), tiny(tiny_model_dir, method="mean", layers=()), ChunkingConfig())


def test_prepare_beside_what_the_model_has_no_room_for_is_refused_before_any_work(tiny_model_dir: Path):
    """The tiny model has 2,048 positions: two copies of 1,600 tokens do not fit, one does."""
    encoder, chunking = tiny(tiny_model_dir, max_length=2048), ChunkingConfig(max_tokens=1600)
    with pytest.raises(TerminalError, match=r"echo cannot embed chunks of 1600 tokens .* give smaller --max-tokens"):
        prepare_beside(("echo",), encoder, chunking)


@pytest.mark.parametrize("missing", ["bm25s", "Stemmer"])
def test_prepare_beside_bm25_without_its_packages_says_how_to_install_them(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, missing: str
):
    monkeypatch.setitem(sys.modules, missing, None)
    encoder = tiny(tiny_model_dir)
    assert prepare_beside(("mean",), encoder, ChunkingConfig())
    with pytest.raises(TerminalError, match=rf"{missing} is not installed; run `pip install 'kvembed\[eval\]'`"):
        prepare_beside(("bm25-documents",), encoder, ChunkingConfig())


@pytest.mark.usefixtures("by_definition")
def test_evaluate_beside_writes_every_system_and_compares_it(
    kvembed: Command, dataset: Path, tiny_model_dir: Path, tmp_path: Path
):
    options = ("--model", tiny_model_dir, "--layers", "1", "--device", "cpu", "--max-tokens", "64")
    asked = ("--beside", "bm25,no-rerouting", "--beside", "static")
    found = kvembed("evaluate", dataset, *options, *asked, "--json", "-v", "-o", tmp_path / "out")
    assert found.code == 0, found.err
    names = [system["name"] for system in found.json["systems"]]
    assert names == ["kv-rerouting", "bm25", "no-rerouting", "static"]
    assert [one["first"] for one in found.json["comparisons"]] == names[1:]
    assert set(found.json["buckets"]["tokens"][0]["systems"]) == set(names)
    assert found.json["versions"]["bm25s"]
    assert "--beside bm25,no-rerouting --beside static" in found.json["command"]
    for name in names[1:]:
        assert (tmp_path / "out" / name / "run.trec").is_file()
    assert "bm25: cutting documents: 7" in found.err
    assert "static: embedding documents" in found.err
    assert "Building index" not in found.err
    shown = kvembed("compare", tmp_path / "out" / "bm25", tmp_path / "out" / "static")
    assert "static against bm25: 4 queries" in shown.out


def test_evaluate_beside_what_cannot_be_meant_is_wrong_usage_before_any_work(kvembed: Command, tmp_path: Path):
    wrong = kvembed("evaluate", "nowhere", "--beside", "bm25,ecko")
    assert wrong.code == 2
    assert "'ecko' is no system; legal are bm25" in wrong.err
    (tmp_path / "questions.jsonl").write_text('{"question": "a?", "document_id": "x"}\n')
    wrong = kvembed("evaluate", tmp_path / "questions.jsonl", "-c", "any", "--beside", "bm25,echo")
    assert wrong.code == 2
    assert "--beside echo: beside a collection only bm25 can stand" in wrong.err


@pytest.mark.usefixtures("by_definition")
def test_bm25_beside_a_collection_reads_the_chunks_that_were_embedded(
    kvembed: Command, dataset: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same chunks as beside a data set, so the same scores of every document that is asked for."""
    monkeypatch.setattr("pipelines.evaluation.questions.require_ranx", lambda: None)
    store, fields = ("--store", tmp_path / "store"), ("--id-field", "_id", "--text-field", "text")
    options = ("--model", tiny_model_dir, "--layers", "1", "--device", "cpu", "--max-tokens", "32")
    assert kvembed("index", dataset / "corpus.jsonl", "-c", "small", *store, *fields, *options).code == 0
    asked = tmp_path / "questions.jsonl"
    asked.write_text('{"question": "baking flours", "document_id": "bread", "id": "flour"}\n')
    found = kvembed("evaluate", asked, "-c", "small", *store, "--beside", "bm25", "--json", "-o", tmp_path / "mine")
    assert found.code == 0, found.err
    assert [system["name"] for system in found.json["systems"]] == ["kv-rerouting", "bm25"]
    beside = kvembed("evaluate", dataset, *options, "--beside", "bm25", "--json", "-o", tmp_path / "set")
    assert beside.code == 0, beside.err
    ours, theirs = (read_results(tmp_path / name / "bm25").main for name in ("mine", "set"))
    assert ours.rankings["flour"] == theirs.rankings["flour"]
    assert len(ours.rankings["flour"]) == 2
    assert ours.identity == theirs.identity
    assert ours.fingerprint == theirs.fingerprint
    assert ours.figures.chunks == theirs.figures.chunks > len(CORPUS)


@pytest.mark.usefixtures("by_definition")
def test_bm25_beside_a_collection_with_another_text_than_was_embedded_is_refused(tiny_model_dir: Path):
    client, queries = QdrantClient(":memory:"), {"q": JudgedQuery("q", "a ship", 2, {"a": 1})}
    encoder = tiny(tiny_model_dir)
    ingest([Document("a", "ships float", "a")], client, "notes", encoder)
    with open_collection(client, "notes", encoder=encoder) as opened:
        pinned = opened.pinned()
        assert [name for name, _ in bm25_of_collection(pinned, queries).rankings["q"]] == ["a"]
        client.set_payload(pinned.physical, {"page_content": "something else"}, points=models.Filter())
        with pytest.raises(StoreError, match="a chunk of document 'a' as it was embedded; run `kvembed verify notes"):
            bm25_of_collection(pinned, queries)


@pytest.mark.slow  # ranx compiles for half a minute the first time
def test_run_files_of_all_systems_give_trec_eval_the_figures_of_ranx(
    dataset: Path, tiny_model_dir: Path, tmp_path: Path
):
    encoder, chunking = tiny(tiny_model_dir), ChunkingConfig(max_tokens=64)
    result = evaluate(dataset, encoder, chunking=chunking, beside=prepare_beside(BASELINES, encoder, chunking))
    folder = write_results(result, tmp_path / "out")
    for place, system in enumerate(result.systems):
        own = folder / system.name if place else folder
        with (folder / "qrels.trec").open() as qrels, (own / "run.trec").open() as run:
            trec = trec_figures(pytrec_eval.parse_qrel(qrels), pytrec_eval.parse_run(run))
        for query, values in system.per_query.items():
            expected = trec.get(query, dict.fromkeys(values, 0.0))  # trec_eval leaves out who found nothing
            assert values == pytest.approx(expected, abs=1e-6), (system.name, query)


def trec_figures(judged: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]) -> dict[str, dict]:
    """Our metrics by trec_eval; its reciprocal rank has no cut, so the run is cut for it."""
    measures = {"ndcg_cut.10", "recall.10,100", "map_cut.100", "success.1,5,10"}
    found = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run)
    top = {query: dict(sorted(scores.items(), key=lambda pair: -pair[1])[:10]) for query, scores in run.items()}
    first = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(top)
    names = {"ndcg@10": "ndcg_cut_10", "recall@10": "recall_10", "recall@100": "recall_100", "map@100": "map_cut_100"}
    names |= {f"hit@{cut}": f"success_{cut}" for cut in (1, 5, 10)}
    return {
        query: {ours: values[theirs] for ours, theirs in names.items()} | {"mrr@10": first[query]["recip_rank"]}
        for query, values in found.items()
    }
