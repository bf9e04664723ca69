"""A sweep over a small model: the same figures as the pipeline with a store gives, an honest subset, going on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvembed import EncoderConfig, KVEncoder, NonFiniteVectorError, Pooling, TransformConfig
from kvembed.errors import ConfigError
from pipelines.chunking import ChunkingConfig
from pipelines.errors import SourceError, TerminalError
from pipelines.evaluation import evaluate, rank_documents, running, sweep, sweep_scoring, systems
from pipelines.evaluation.sweep import SweepOptions, SweepTask, prepare_sweep, run_sweep
from pipelines.evaluation.sweep_choice import Folds
from pipelines.evaluation.sweep_corpus import Part
from pipelines.evaluation.sweep_files import check_sweep_output, read_sweep, sweep_record, write_sweep
from pipelines.evaluation.sweep_grid import Prompt, SweepPlan
from pipelines.evaluation.sweep_records import AXES
from pipelines.evaluation.sweep_scoring import Vectors, fit, rank
from tests.pipelines.evaluations import plain_score

WORDS = "ice melts sun bread flour water salt ships float gzip file plate layer wind steel paper light sound".split()
CHUNKING = ChunkingConfig(max_tokens=40)
OPTIONS = SweepOptions(folds=Folds(3, 4))
SMALL = SweepPlan(
    axes=("bias", "window", "transform"), biases=(0.0, 4.0), transforms=(None, TransformConfig(center=True))
)


@pytest.fixture(autouse=True)
def _scored_by_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (systems, sweep_scoring):
        monkeypatch.setattr(module, "score", plain_score)
    for module in (running, sweep):
        monkeypatch.setattr(module, "require_ranx", lambda: None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 documents: one empty, two the same, one that is a query; some of several chunks."""
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, size=int(size))) + "." for size in generator.integers(6, 60, 30)]
    texts[3], texts[4], texts[7] = "", texts[5], "gzip file water"
    folder = tmp_path_factory.mktemp("small") / "small"
    folder.mkdir()
    rows = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(texts)]
    queries = [{"_id": f"q{place}", "text": " ".join(generator.choice(WORDS, size=3))} for place in range(12)]
    queries.append({"_id": "d7", "text": "Gzip file  water"})
    judged = [(query["_id"], int(one)) for query in queries for one in generator.choice(30, size=3, replace=False)]
    qrels = "".join(f"{query}\td{one}\t{1 + one % 2}\n" for query, one in judged)
    for name, records in (("corpus", rows), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}q0\tgone\t1\nd7\td7\t1\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tiny_encoder: KVEncoder) -> KVEncoder:
    return tiny_encoder


def prepared(dataset: Path, encoder: KVEncoder, plan: SweepPlan = SMALL, **options: object) -> SweepTask:
    return prepare_sweep(dataset, encoder, plan, replace(OPTIONS, **options), chunking=CHUNKING)


@pytest.mark.parametrize("transform", [None, TransformConfig(center=True, dimensions=12)])
def test_sweep_scores_every_query_as_the_pipeline_with_a_store_does(
    dataset: Path, encoder: KVEncoder, transform: TransformConfig | None
):
    """The sweep ranks in memory; that is only right as long as nothing comes out otherwise."""
    plan = SweepPlan(axes=("window", "pooling"), windows=((), (2, 3)))
    task = prepared(dataset, encoder.with_transform(transform), plan)
    result = run_sweep(task)
    assert task.corpus.counts["documents_empty"] == 1
    assert task.corpus.counts["self_hits_removed"] == 1
    assert task.corpus.counts["judged_missing"] == 1
    assert len(task.corpus.texts) < len(task.corpus.text_of), "two documents are the same"
    for one in result.configurations:
        config = EncoderConfig(encoder.config.model, layers=one.layers, pooling=one.pooling, transform=transform)
        found = evaluate(dataset, encoder.with_config(config), chunking=CHUNKING)
        for query, values in found.main.per_query.items():
            assert one.per_query[query] == pytest.approx(values), (one.name, query)
        assert one.estimates == found.main.estimates
        if transform is None:
            assert one.tokens == found.main.figures.tokens + found.main.figures.query_tokens - duplicated(task, one)


def duplicated(task: SweepTask, one: object) -> int:
    """Tokens of chunks that stand in the corpus more than once; the sweep embeds them once."""
    del one
    counts = np.bincount(task.corpus.text_of)
    encoder = task.encoder
    tokens = encoder.encode_counted(list(task.corpus.texts), "document").tokens
    return int(((counts - 1) * tokens).sum())


def test_sweep_of_one_factor_at_a_time_differs_from_main_in_one(dataset: Path, encoder: KVEncoder):
    result = run_sweep(prepared(dataset, encoder, replace(SMALL, poolings=(Pooling.MEAN,))))
    main = result.main
    assert main.name == "main"
    assert main.values == {
        "bias": "1", "window": "1", "pooling": "hybrid", "prompt": "compression", "transform": "none",
    }  # fmt: skip
    apart = {
        one.name: [axis for axis in AXES if one.values[axis] != main.values[axis]] for one in result.configurations
    }
    assert apart == {
        "main": [],
        "bias=0": ["bias"], "bias=4": ["bias"],
        "window=none": ["window"], "window=0": ["window"], "window=2": ["window"], "window=3": ["window"],
        "transform=center": ["transform"],
    }  # fmt: skip
    assert [point.value for point in result.axis("bias").points] == [0.0, 1.0, 4.0]
    assert [point.value for point in result.axis("window").points] == [[], [0], [1], [2], [3]]
    assert result.axis("pooling") is None
    for point in (point for axis in result.axes for point in axis.points):
        own = main.estimates["ndcg@10"].mean
        assert point.difference.mean == pytest.approx(point.estimate.mean - own), "above main is above 0"
    assert result.standing.windows == 4
    assert result.standing.layers == tuple(result.profile["layers"])


def test_sweep_of_the_full_grid_has_every_combination_and_one_factor_rows(dataset: Path, encoder: KVEncoder):
    plan = SweepPlan(axes=("bias", "window", "pooling"), grid="full", biases=(0.0, 2.0), windows=((), (2,)))
    task = prepared(dataset, encoder, replace(plan, poolings=(Pooling.MEAN, Pooling.HYBRID)))
    windows = len(task.grid.axes["window"])
    assert len(task.grid.configurations) == 3 * windows * 2
    assert len({one.name for one in task.grid.configurations}) == 3 * windows * 2
    assert len(task.passes()) == 3 * (windows - 1) * 2 + 2, "without re-routing the bias changes nothing"
    result = run_sweep(task)
    by_name = {one.name: one for one in result.configurations}
    assert by_name["bias=0 window=none"].per_query == by_name["bias=2 window=none"].per_query
    assert [point.name for point in result.axis("bias").points] == ["bias=0", "main", "bias=2"]
    assert [point.name for point in result.axis("pooling").points] == ["pooling=mean", "main"]
    assert sum(result.overall.chosen.values()) == 3 * 4


def test_sweep_embeds_once_for_all_transforms(dataset: Path, encoder: KVEncoder, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(sweep, "embed", lambda *args: calls.append(1) or sweep_scoring.embed(*args))
    plan = SweepPlan(
        axes=("transform",),
        transforms=(None, TransformConfig(center=True), TransformConfig(whiten=True, shrinkage=0.9)),
    )
    result = run_sweep(prepared(dataset, encoder, plan))
    assert calls == [1]
    assert [one.seconds > 0.0 for one in result.configurations] == [True, False, False]
    assert result.configurations[1].per_query != result.main.per_query


def test_fitted_transform_never_sees_a_query(dataset: Path, encoder: KVEncoder):
    corpus = prepared(dataset, encoder).corpus
    vectors = sweep_scoring.embed(encoder, corpus, lambda _: None)
    blind = Vectors(**{**fields_of(vectors), "queries": np.full_like(vectors.queries, np.nan)})
    asked = TransformConfig(whiten=True, shrinkage=0.5)
    assert fit(asked, blind, corpus) == fit(asked, vectors, corpus)
    assert fit(asked, vectors, corpus).fitted_on == encoder.fingerprint


def fields_of(vectors: Vectors) -> dict[str, object]:
    return {name: getattr(vectors, name) for name in Vectors.__slots__}


@given(st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_rank_equals_all_pairs_ranked_one_by_one(small_task: SweepTask, seed: int, levels: int):
    """Few levels make many ties, also at the depth's end."""
    generator, corpus = np.random.default_rng(seed), small_task.corpus
    corpus = replace_task(corpus, depth=5)
    documents = generator.integers(-levels, levels + 1, (len(corpus.texts), 3)).astype(np.float32)
    queries = generator.integers(-levels, levels + 1, (len(corpus.task.queries), 3)).astype(np.float32)
    found = rank(documents, queries, corpus)
    ends = [*corpus.starts[1:], len(corpus.text_of)]
    for name, query in zip(corpus.task.queries, queries, strict=True):
        pairs = [
            (document, float(documents[corpus.text_of[chunk]] @ query))
            for document, start, end in zip(corpus.documents, corpus.starts, ends, strict=True)
            for chunk in range(start, end)
        ]
        expected = [pair for pair in rank_documents(pairs) if not (name == "d7" and pair[0] == "d7")][:5]
        assert list(found[name]) == expected


def test_query_that_is_a_document_still_gets_as_many_others(small_task: SweepTask):
    corpus = replace_task(small_task.corpus, depth=5)
    generator = np.random.default_rng(0)
    documents = generator.normal(size=(len(corpus.texts), 8)).astype(np.float32)
    own = corpus.text_of[corpus.starts[corpus.documents.index("d7")]]
    queries = np.repeat(documents[[own]], len(corpus.task.queries), axis=0)
    found = rank(documents, queries, corpus)
    assert found["q0"][0][0] == "d7"
    assert [name for name, _ in found["d7"]] == [
        name for name, _ in rank(documents, queries, replace_task(corpus, depth=6))["q0"][1:]
    ]


@pytest.fixture(scope="module")
def small_task(dataset: Path, encoder: KVEncoder) -> Iterator[SweepTask]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "require_ranx", lambda: None)
        patch.setattr(sweep_scoring, "score", plain_score)
        yield prepared(dataset, encoder)


def replace_task(corpus: object, **fields: object) -> object:
    kept = {name: getattr(corpus, name) for name in type(corpus).__slots__ if name != "digest"}
    return type(corpus)(**{**kept, "task": replace(corpus.task, **fields)})


def test_subset_keeps_every_judged_document_and_is_called_one(dataset: Path, encoder: KVEncoder):
    task = prepared(dataset, encoder, part=Part(queries=8, documents=26))
    corpus = task.corpus
    assert asdict(corpus.subset) == {"queries": 8, "queries_of": 13, "documents": 26, "documents_of": 30, "seed": 0}
    judged = {name for query in corpus.task.queries.values() for name in query.judgements} - {"gone", "d3"}
    assert judged <= set(corpus.documents)
    assert run_sweep(task).title == "small, a subset (8 of 13 queries, 26 of 30 documents)"
    assert prepared(dataset, encoder).corpus.subset is None
    smaller = prepared(dataset, encoder, part=Part(queries=6)).corpus
    assert set(smaller.task.queries) < set(corpus.task.queries)


def test_subset_without_room_for_the_judged_documents_is_refused(dataset: Path, encoder: KVEncoder):
    with pytest.raises(TerminalError, match=r"5 documents are fewer than the \d+ that are judged for the 13 queries"):
        prepared(dataset, encoder, part=Part(documents=5))


def test_sweep_that_was_cut_short_goes_on_from_what_it_has(
    dataset: Path, encoder: KVEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    task, whole = prepared(dataset, encoder), run_sweep(prepared(dataset, encoder))
    scores = check_sweep_output(tmp_path / "out")

    def interrupt(name: str, _done: int, _total: int, scored: object) -> None:
        if scored is not None and name == "bias=4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(task, scores=scores, watch=interrupt)
    there = len(list((tmp_path / "out" / "scores").iterdir()))
    assert 0 < there < len(task.grid.configurations)
    calls = []
    monkeypatch.setattr(sweep, "embed", lambda *args: calls.append(1) or sweep_scoring.embed(*args))
    told = []
    result = run_sweep(task, scores=scores, watch=lambda *what: told.append(what))
    assert len(calls) == len(task.passes()) - 3, "main with its transform, bias=0 and bias=4 are there"
    assert told[-1][1] == told[-1][2] == len(calls) * task.texts
    assert [one.per_query for one in result.configurations] == [one.per_query for one in whole.configurations]
    assert (result.axes, result.standing, result.overall) == (whole.axes, whole.standing, whole.overall)
    assert read_sweep(write_sweep(result, tmp_path / "out")) == result


def test_scores_of_another_corpus_or_query_are_not_taken(dataset: Path, encoder: KVEncoder, tmp_path: Path):
    keys = set(prepared(dataset, encoder).keys.values())
    assert keys == set(prepared(dataset, encoder).keys.values())
    other = tmp_path / "small"
    other.mkdir()
    for path in dataset.iterdir():
        (other / path.name).write_text(path.read_text().replace("q1\td", "q2\td"))
    assert keys.isdisjoint(prepared(other, encoder).keys.values())
    assert keys.isdisjoint(prepared(dataset, encoder, part=Part(queries=12)).keys.values())
    chunking = ChunkingConfig(max_tokens=20)
    assert keys.isdisjoint(prepare_sweep(dataset, encoder, SMALL, OPTIONS, chunking=chunking).keys.values())


def test_sweep_record_is_json_without_a_path_of_the_machine(dataset: Path, encoder: KVEncoder):
    record = json.dumps(sweep_record(run_sweep(prepared(dataset, encoder))), allow_nan=False)
    assert str(dataset.parent) not in record
    assert str(Path(encoder.config.model).parent) not in record


def test_chunks_fit_the_longest_prompt_that_is_swept(dataset: Path, make_encoder):
    """All configurations embed the same chunks, and none of them cuts any."""
    long = Prompt("{text}", "Say it in a word, a single word, and nothing but that one word: {text} is")
    encoder = make_encoder(max_length=80)
    task = prepare_sweep(dataset, encoder, SweepPlan(axes=("prompt",), prompts={"long": long}), OPTIONS)
    room = encoder.with_config(replace(encoder.config, query_template=long.query, document_template=long.document))
    assert room.document_budget < encoder.document_budget
    lengths = [len(found.ids) for found in encoder.tokenizer.encode_batch(list(task.corpus.texts), False, False)]
    assert max(lengths) <= room.document_budget
    assert {one.truncated for one in run_sweep(task).configurations} == {0}


def test_configuration_that_overflows_is_named(dataset: Path, encoder: KVEncoder, monkeypatch: pytest.MonkeyPatch):
    def fail(other: KVEncoder, *rest: object) -> Vectors:
        if other.config.prefix_bias == 4.0:
            raise NonFiniteVectorError([0], "float16", 2)
        return sweep_scoring.embed(other, *rest)

    monkeypatch.setattr(sweep, "embed", fail)
    with pytest.raises(TerminalError, match=r"configuration 'bias=4' cannot be measured: .*leave that value out"):
        run_sweep(prepared(dataset, encoder))


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (SweepPlan(windows=((1,), (9,))), ConfigError, r"re-routing layer 9 is outside 0\.\.3"),
        (SweepPlan(widths=(5,)), TerminalError, r"window width 5 is outside 1\.\.4 \(model has 4 layers\)"),
        (SweepPlan(biases=(0.0, float("-inf"))), TerminalError, r"a bias of -inf is no re-routing"),
        (SweepPlan(prompts={"bad": Prompt("no place", "{text}")}), ConfigError, r"query_template is 'no place'"),
        (
            SweepPlan(transforms=(TransformConfig(center=True, dimensions=63),)),
            TerminalError,
            r"transform center,dimensions=63 cannot be measured: it is fitted to \d+ distinct chunks",
        ),
        (
            SweepPlan(transforms=(TransformConfig(center=True, dimensions=65),)),
            TerminalError,
            r"dimensions is 65, but 64 are left",
        ),
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_embedded(
    dataset: Path, encoder: KVEncoder, monkeypatch: pytest.MonkeyPatch, plan: SweepPlan, error: type, words: str
):
    monkeypatch.setattr(KVEncoder, "encode_counted", lambda *_: pytest.fail("embedded"))
    with pytest.raises(error, match=words):
        prepare_sweep(dataset, encoder, plan, OPTIONS, chunking=ChunkingConfig())


def test_defaults_that_cannot_be_are_left_out_and_named(dataset: Path, encoder: KVEncoder):
    task = prepared(dataset, encoder, SweepPlan(axes=("transform",)))
    assert not any("filter" in one.name for one in task.grid.configurations)
    assert [warning for warning in task.warnings if warning.startswith("transform filter=8 was left out: ")]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "echo", "layers": ()}, "method 'echo' re-routes nowhere"),
        ({"layers": ()}, "a sweep goes around a configuration that re-routes"),
        ({"prefix_bias": float("-inf")}, "a sweep goes around a configuration that re-routes"),
    ],
)
def test_sweep_around_no_rerouting_is_refused(dataset: Path, make_encoder, fields: dict, words: str):
    with pytest.raises(TerminalError, match=words):
        prepare_sweep(dataset, make_encoder(**fields), SMALL, OPTIONS)


def test_sweep_of_too_few_texts_for_twonn_says_so_and_has_no_standing(tmp_path: Path, make_encoder):
    rows = [{"_id": f"d{place}", "title": "", "text": word} for place, word in enumerate(WORDS[:6])]
    queries = [{"_id": f"q{place}", "text": word} for place, word in enumerate(WORDS[:6])]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (tmp_path / "qrels.tsv").write_text("".join(f"q{place}\td{place}\t1\n" for place in range(6)))
    task = prepare_sweep(tmp_path, make_encoder(layers="auto"), SMALL_WINDOWS, OPTIONS)
    result = run_sweep(task)
    assert (result.standing, result.profile) == (None, None)
    assert any("were taken at half depth" in warning for warning in result.warnings)
    assert result.axis("window") is not None


SMALL_WINDOWS = SweepPlan(axes=("window",))


def test_window_of_twonn_is_measured_though_others_are_named(dataset: Path, encoder: KVEncoder):
    task = prepared(dataset, encoder.with_layers((0,)), SweepPlan(axes=("window",), windows=((), (0, 1))))
    result = run_sweep(task)
    assert result.profile["layers"] != [0]
    assert result.standing.layers == tuple(result.profile["layers"])
    assert result.standing.windows == 3


def test_sweep_that_needs_no_twonn_does_not_measure_it(dataset: Path, encoder: KVEncoder, monkeypatch):
    monkeypatch.setattr(KVEncoder, "last_token_states", lambda *_, **__: pytest.fail("measured"))
    task = prepared(dataset, encoder, SweepPlan(axes=("pooling",)))
    assert (task.profile, task.encoder.config.layers) == (None, (1,))


def test_corpus_without_text_is_refused(tmp_path: Path, encoder: KVEncoder):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "title": "", "text": " "}\n')
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "q{place}", "text": "ice"}}\n' for place in range(9)))
    (tmp_path / "qrels.tsv").write_text("".join(f"q{place}\td\t1\n" for place in range(9)))
    with pytest.raises(SourceError, match=r"no document of .* has text that can be cut"):
        prepare_sweep(tmp_path, encoder, SMALL, OPTIONS)
