"""`kvembed sentences`: against scipy and scikit-learn on the same vectors, and as continuous integration calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kvembed import EncoderConfig, KVEncoder
from pipelines.evaluation.sentence_probes import STRENGTHS, fit_probe
from pipelines.evaluation.sentence_systems import cosine_similarities
from pipelines.evaluation.sentence_tasks import LabelledTexts, SentencePairs
from pipelines.evaluation.sentences import evaluate_sentences
from tests.pipelines.command_line import Command, kvembed

__all__ = ["kvembed"]

WORDS = "ice bread ships sun water flour boundary layer plate gzip file cold hot warm café".split()
FORWARD = ("last-token", "mean", "static", "prompt-eol", "echo", "token-prepending", "no-rerouting")


def sentence(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, int(generator.integers(3, 9))))


def pairs(count: int = 40) -> SentencePairs:
    generator = np.random.default_rng(0)
    first = tuple(sentence(generator) for _ in range(count))
    second = tuple(sentence(generator) if number % 2 else first[number] for number in range(count))
    scores = tuple(float(len({*a.split()} & {*b.split()})) for a, b in zip(first, second, strict=True))
    return SentencePairs("pairs", tuple(map(str, range(count))), first, second, scores, (*first, *second))


def labels(train: int = 80, test: int = 30) -> LabelledTexts:
    generator = np.random.default_rng(1)
    texts = [sentence(generator) for _ in range(train + test)]
    kinds = ["cold" if "ice" in text or "cold" in text else "bread" if "bread" in text else "else" for text in texts]
    names = tuple(map(str, range(test)))
    return LabelledTexts(
        "kinds", names, tuple(texts[train:]), tuple(kinds[train:]), tuple(texts[:train]), tuple(kinds[:train])
    )


def test_similarity_equals_scipy_on_the_document_vectors(tiny_encoder: KVEncoder):
    task = pairs()
    result = evaluate_sentences(task, tiny_encoder)
    vectors = [tiny_encoder.encode_document(list(side)) for side in (task.first, task.second)]
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(*vectors, strict=True)]
    assert result.role == "document"
    assert result.main.answers == pytest.approx(cosines, abs=1e-6)
    assert result.metrics["spearman"] == pytest.approx(
        scipy.stats.spearmanr(np.array(result.main.answers), task.scores)[0], abs=1e-12
    )
    assert result.metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(cosines, task.scores)[0], abs=1e-6)
    as_queries = evaluate_sentences(task, tiny_encoder, role="query")
    assert as_queries.main.answers != pytest.approx(cosines, abs=1e-6)
    assert result.main.cost.texts == len({*task.first, *task.second})


def test_classification_equals_scikit_learn_on_the_document_vectors(tiny_encoder: KVEncoder):
    task = labels()
    result = evaluate_sentences(task, tiny_encoder)
    known, judged = (tiny_encoder.encode_document(list(texts)) for texts in (task.train_texts, task.texts))
    scaler = StandardScaler().fit(known.astype(float))
    strength = float(str(result.main.probe["strength"]))
    reference = LogisticRegression(C=strength, max_iter=1000).fit(
        scaler.transform(known.astype(float)), task.train_labels
    )
    assert result.main.answers == tuple(reference.predict(scaler.transform(judged.astype(float))))
    assert result.metrics["accuracy"] == np.mean(np.array(result.main.answers) == np.array(task.labels))


def test_strength_is_chosen_without_the_judged_texts():
    """A penalty chosen on what is judged would be a figure that nobody gets on new texts."""
    generator = np.random.default_rng(0)
    known, others = generator.normal(size=(60, 40)).astype(np.float32), generator.normal(size=(20, 40))
    kinds = [str(int(value > 0)) for value in known[:, 0]]
    found = [fit_probe(known, kinds, (scale * others).astype(np.float32)) for scale in (1.0, 1000.0)]
    assert found[0].strength == found[1].strength
    assert found[0].strength in STRENGTHS
    assert found[0].to_dict() == found[1].to_dict()


def test_probe_of_a_rare_label_says_so():
    generator = np.random.default_rng(0)
    known = generator.normal(size=(30, 4)).astype(np.float32)
    probe = fit_probe(known, ["a"] * 15 + ["b"] * 14 + ["rare"], known)
    assert (probe.folds, probe.rare_labels) == (2, 1)


def test_cosine_of_a_zero_vector_is_0():
    rows = np.array([[0.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    assert cosine_similarities(rows, rows).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", FORWARD)
def test_baseline_over_the_same_weights_equals_an_encoder_of_its_own(
    tiny_encoder: KVEncoder, tiny_model_dir: Path, name: str
):
    task = pairs(20)
    found = evaluate_sentences(task, tiny_encoder, beside=[name])
    fields = {"layers": ()} if name == "no-rerouting" else {"method": name}
    alone = KVEncoder(EncoderConfig(model=str(tiny_model_dir), **fields), device="cpu")
    expected = evaluate_sentences(task, alone)
    assert [system.name for system in found.systems] == ["kv-rerouting", name]
    assert found.systems[1].answers == pytest.approx(expected.main.answers, abs=1e-6)
    assert found.systems[1].fingerprint == alone.fingerprint
    (compared,) = found.scores.comparisons
    assert (compared.first, compared.second, compared.queries) == (name, "kv-rerouting", 20)
    for metric in compared.metrics:
        assert metric.difference.mean == pytest.approx(metric.second - metric.first, abs=1e-12)


def test_layers_are_chosen_from_the_sample_and_labels_are_not_seen(tiny_model_dir: Path):
    encoder = KVEncoder(EncoderConfig(model=str(tiny_model_dir)), device="cpu")
    task = pairs()
    chosen = [
        evaluate_sentences(SentencePairs(*fields), encoder).main.identity["layers"]
        for fields in (
            (task.name, task.ids, task.first, task.second, scores, task.sample)
            for scores in (task.scores, task.scores[::-1])
        )
    ]
    assert chosen[0] == chosen[1] != []


def tsv(path: Path, task: SentencePairs) -> Path:
    path.mkdir()
    rows = zip(task.scores, task.first, task.second, strict=True)
    lines = ["score\tsentence1\tsentence2", *(f"{score}\t{first}\t{second}" for score, first, second in rows)]
    (path / "test.tsv").write_text("\n".join(lines) + "\n")
    return path


def test_sentences_writes_what_it_prints(kvembed: Command, tiny_model_dir: Path, tmp_path: Path):
    folder = tsv(tmp_path / "sts", pairs())
    options = (
        "--model",
        tiny_model_dir,
        "--layers",
        "1",
        "--beside",
        "mean,no-rerouting",
        "--output",
        tmp_path / "out",
    )
    printed = kvembed("sentences", folder, *options, "--json")
    assert printed.code == 0, printed.err
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert printed.json == {**{key: value for key, value in written.items() if key != "schema"}, "failures": []}
    assert [system["name"] for system in written["systems"]] == ["kv-rerouting", "mean", "no-rerouting"]
    assert written["command"].startswith("kvembed sentences sts --model")
    lines = [json.loads(line) for line in (tmp_path / "out" / "per_item.jsonl").read_text().splitlines()]
    gold, similarities = zip(*((line["score"], line["similarity"]) for line in lines), strict=True)
    assert scipy.stats.spearmanr(similarities, gold)[0] == pytest.approx(written["metrics"]["spearman"], abs=1e-12)
    assert (tmp_path / "out" / "mean" / "per_item.jsonl").is_file()
    again = kvembed("sentences", folder, *options[:4], "--output", tmp_path / "out")
    assert again.code == 0, again.err
    assert not (tmp_path / "out" / "mean").exists()


def test_sentences_below_a_threshold_ends_with_1(kvembed: Command, tiny_model_dir: Path, tmp_path: Path):
    folder = tsv(tmp_path / "sts", pairs())
    failed = kvembed("sentences", folder, "--model", tiny_model_dir, "--layers", "1", "--fail-under", "spearman=1")
    assert failed.code == 1
    assert "below 1" in failed.err
    assert "spearman" in failed.out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--fail-under", "ndcg@10=0.4"), 2, "names no metric; give metric=value, of spearman, pearson, accuracy"),
        (("--fail-under", "accuracy=0.4"), 2, "names no metric; give metric=value, of spearman, pearson"),
        (("--fail-under", "spearman=7"), 2, "such as spearman=0.4"),
        (("--column", "question=text"), 2, "names no column; give NAME=COLUMN, where NAME is one of sentence1"),
        (("--beside", "bm25"), 2, "'bm25' ranks documents and knows no sentences"),
        (("--beside", "kv-rerouting"), 1, "kv-rerouting is the system asked about"),
        (("--split", "dev"), 1, "has no dev file; it has test.tsv"),
    ],
)
def test_sentences_of_bad_options_ends_before_any_work(
    kvembed: Command, tiny_model_dir: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
):
    folder = tsv(tmp_path / "sts", pairs(4))
    failed = kvembed("sentences", folder, "--model", tiny_model_dir, "--layers", "1", *options)
    assert failed.code == code
    assert words in " ".join(failed.err.split())


def test_sentences_does_not_write_over_a_result_of_evaluate(kvembed: Command, tiny_model_dir: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.json").write_text("{}")
    folder = tsv(tmp_path / "sts", pairs(4))
    failed = kvembed("sentences", folder, "--model", tiny_model_dir, "--layers", "1", "--output", tmp_path / "out")
    assert failed.code == 1
    assert "holds a result of `kvembed evaluate`" in " ".join(failed.err.split())


def test_compare_of_a_sentence_result_says_where_systems_are_compared(
    kvembed: Command, tiny_model_dir: Path, tmp_path: Path
):
    folder = tsv(tmp_path / "sts", pairs(4))
    kvembed("sentences", folder, "--model", tiny_model_dir, "--layers", "1", "--output", tmp_path / "out")
    failed = kvembed("compare", tmp_path / "out", tmp_path / "out")
    assert failed.code == 1
    assert "is a result of `kvembed sentences`" in " ".join(failed.err.split())
