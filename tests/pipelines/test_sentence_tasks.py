"""Judged sentences from the files people have, and what is said of files that are not such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import SourceError
from pipelines.evaluation.sentence_tasks import LabelledTexts, SentencePairs, read_sentence_task

PAIRS = [("5.0", 'He said "ice', "Ice, he said"), ("0.5", "bread", "ships"), ("2", "naïve café", "")]


def tsv(path: Path, *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def jsonl(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(count: int, words: int = 7) -> list[dict[str, object]]:
    return [{"text": f"text {number % words}", "label": "even" if number % 2 else "odd"} for number in range(count)]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_pairs_are_read_alike_from_every_kind_of_file(tmp_path: Path, kind: str):
    path = tmp_path / f"mine.{kind}"
    if kind == "tsv":  # STS files hold lone quotation marks
        tsv(path, ("score", "sentence1", "sentence2"), *PAIRS)
    elif kind == "csv":
        lines = ['5.0,"He said ""ice","Ice, he said"', "0.5,bread,ships", "2,naïve café,"]
        path.write_text("\ufeff" + "\r\n".join(["score,sentence1,sentence2", *lines]), encoding="utf-8")
    else:
        jsonl(path, *({"score": float(a), "sentence1": b, "sentence2": c} for a, b, c in PAIRS))
    task = read_sentence_task(path)
    assert isinstance(task, SentencePairs)
    assert (task.name, task.scores) == ("mine", (5.0, 0.5, 2.0))
    assert list(zip(task.first, task.second, strict=True)) == [row[1:] for row in PAIRS]
    assert task.counts == {"pairs": 3, "sentences": 6}
    assert set(task.sample) == {*task.first, *task.second}


def test_folder_is_judged_by_its_test_file_and_learns_from_its_train_file(tmp_path: Path):
    jsonl(tmp_path / "qc" / "train.jsonl", *labelled(20))
    jsonl(tmp_path / "qc" / "test.jsonl", {"text": "text 1", "label": 7}, {"text": "new", "label": "odd"})
    task = read_sentence_task(tmp_path / "qc")
    assert isinstance(task, LabelledTexts)
    assert (task.name, task.split, task.labels) == ("qc", "given", ("7", "odd"))
    assert task.counts == {
        "texts": 2,
        "train_texts": 20,
        "labels": 3,
        "texts_also_in_training": 1,
        "texts_of_unseen_labels": 1,
    }
    assert task.sample == task.train_texts


def test_sample_of_pairs_is_the_training_files(tmp_path: Path):
    """Layers that were chosen from the judged sentences would be those of a test set that had been seen."""
    tsv(tmp_path / "test.tsv", ("score", "sentence1", "sentence2"), *PAIRS)
    tsv(tmp_path / "train.tsv", ("score", "sentence1", "sentence2"), ("1", "a", "b"), ("2", "a", "c"))
    assert read_sentence_task(tmp_path).sample == ("a", "b", "c")


def test_one_file_of_labels_is_parted_alike_in_any_order_and_keeps_equal_texts_together(tmp_path: Path):
    rows = labelled(200, words=67)
    first = read_sentence_task(jsonl(tmp_path / "a.jsonl", *rows))
    second = read_sentence_task(jsonl(tmp_path / "b.jsonl", *reversed(rows)))
    assert isinstance(first, LabelledTexts)
    assert isinstance(second, LabelledTexts)
    assert set(first.train_texts) == set(second.train_texts)
    assert not set(first.texts) & set(first.train_texts)
    assert len(first.texts) + len(first.train_texts) == 200
    assert 0.7 <= len(first.train_texts) / 200 <= 0.9
    assert set(first.labels) == set(first.train_labels) == {"odd", "even"}
    assert first.split == "drawn"
    judged = sorted(set(first.texts))
    assert judged != sorted({*first.texts, *first.train_texts})[: len(judged)], "drawn by hash, not by the alphabet"
    where = {row: number for number, row in enumerate((str(row["text"]) for row in rows[:67]), start=1)}
    assert all(int(line) % 67 == where[text] % 67 for line, text in zip(first.ids, first.texts, strict=True))


def test_column_names_of_the_file_are_taken(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", *({"question": f"q {n}", "fine": n % 3} for n in range(30)))
    task = read_sentence_task(path, columns={"text": "question", "label": "fine"})
    assert isinstance(task, LabelledTexts)
    assert set(task.labels) <= {"0", "1", "2"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "score\tsentence1\tsentence2\n1\ta\tb\nx\ta\tb\n", r"a.tsv line 3 has 'x' as 'score'; .* finite"),
        ("a.tsv", "score\tsentence1\tsentence2\nnan\ta\tb\n", "line 2 has 'nan' as 'score'"),
        ("a.tsv", "score\tsentence1\tsentence2\n1\ta\n", "line 2 has 2 columns, its header 3: score, sentence1"),
        ("a.tsv", "score\tsentence1\tsentence2\n1\ta\tb\n1\tc\td\n", "2 pairs of one score; a correlation needs"),
        ("a.tsv", "score\tpremise\thypothesis\n1\ta\tb\n", "lacks columns: it has 'score', 'premise', 'hypothesis'"),
        ("a.tsv", "", "a.tsv has no row"),
        ("a.csv", 'text,label\n"open,x\n', "a.csv cannot be read"),
        ("a.jsonl", '{"text": "a", "label": null}\n', "line 1 has None as 'label'; it must be a label"),
        ("a.jsonl", '{"text": 3, "label": "x"}\n', "line 1 has 3 as 'text'; it must be a text"),
        ("a.jsonl", '{"text": "\\ud800", "label": "x"}\n', "whole characters; it has a lone surrogate"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n', "too few texts of each label"),
        ("a.jsonl", "".join(f'{{"text": "{n}", "label": "x"}}\n' for n in range(9)), "has the label 'x' only"),
        ("a.jsonl", '{"text": "a", "label": "x", "sentence1": "", "sentence2": "", "score": 1}\n', "both kinds"),
        ("a.txt", "hello", "is no .tsv, .csv or .jsonl file"),
    ],
)
def test_damaged_file_is_refused_with_its_line(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        read_sentence_task(tmp_path / name)


def test_missing_file_and_split_are_refused_with_what_there_is(tmp_path: Path):
    tsv(tmp_path / "dev.tsv", ("score", "sentence1", "sentence2"), *PAIRS)
    with pytest.raises(SourceError, match=r"has no test file; it has dev\.tsv; give a \.tsv"):
        read_sentence_task(tmp_path)
    jsonl(tmp_path / "dev.jsonl", *labelled(20))
    with pytest.raises(SourceError, match=r"has dev\.tsv and dev\.jsonl"):
        read_sentence_task(tmp_path, split="dev")
    with pytest.raises(SourceError, match="is not there"):
        read_sentence_task(tmp_path / "gone.tsv")
