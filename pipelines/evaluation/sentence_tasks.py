"""Judged sentences: pairs with a similarity, or texts with a label, from the files in which people have them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from pipelines.errors import SourceError
from pipelines.evaluation.sentence_rows import Row, find_split, read_rows

PAIR_COLUMNS = ("sentence1", "sentence2", "score")
LABEL_COLUMNS = ("text", "label")
COLUMNS = (*PAIR_COLUMNS, *LABEL_COLUMNS)
"""Names that a column must have, or be given."""
TRAIN_SHARE = 0.8
"""Part of the texts of each label that is learnt from where no training file is given."""

_LAYOUT = (
    "a .tsv, .csv or .jsonl file, or a folder with such a test file and perhaps a train file, with the columns "
    f"{', '.join(PAIR_COLUMNS)} (similarity) or {', '.join(LABEL_COLUMNS)} (classification); "
    "--column NAME=COLUMN names them otherwise"
)


@dataclass(frozen=True, slots=True)
class SentencePairs:
    """Pairs of sentences and how alike people found them.

    Attributes:
        name: Of the folder or file.
        ids: Line of each pair.
        first: A sentence of each pair.
        second: The other.
        scores: What people said, higher is more alike; at least two differ.
        sample: Texts from which re-routing layers and transforms are chosen: the training file's where there is one.
    """

    name: str
    ids: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]
    sample: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How much there is of what."""
        return {"pairs": len(self.ids), "sentences": len({*self.first, *self.second})}


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts to classify, and texts to learn that from.

    Attributes:
        name: Of the folder or file.
        ids: Line of each text that is judged.
        texts: Judged ones.
        labels: Theirs.
        train_texts: Learnt from.
        train_labels: Theirs; at least two differ.
        split: Whether a training file was given, or training texts were drawn from the one file.
    """

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    train_texts: tuple[str, ...] = field(default=())
    train_labels: tuple[str, ...] = field(default=())
    split: Literal["given", "drawn"] = "given"

    @property
    def sample(self) -> tuple[str, ...]:
        """Texts from which re-routing layers and transforms are chosen: those learnt from."""
        return self.train_texts

    @property
    def counts(self) -> dict[str, int]:
        """How much there is of what; a text that is in training too is easier than it looks."""
        texts, labels = frozenset(self.train_texts), frozenset(self.train_labels)
        return {
            "texts": len(self.ids),
            "train_texts": len(self.train_texts),
            "labels": len(labels.union(self.labels)),
            "texts_also_in_training": sum(text in texts for text in self.texts),
            "texts_of_unseen_labels": sum(label not in labels for label in self.labels),
        }


SentenceTask: TypeAlias = SentencePairs | LabelledTexts


def read_sentence_task(
    source: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> SentenceTask:
    """Read a task; which kind it is, its columns tell.

    Args:
        source: A file, or a folder with a file per split.
        split: Of a folder, the file that is judged.
        train: File to learn from; None takes a folder's `train` file, and of a single file of labels draws
            `TRAIN_SHARE` of the texts, stratified, the same on every machine and in any order of lines; equal texts
            stay together.
        columns: Name of `COLUMNS` -> the file's own name of it.

    Raises:
        SourceError: there is no such file, a column is missing, or a value is not what it must be; naming the line.
    """
    path = Path(source).expanduser()
    judged = (find_split(path, split, _LAYOUT) if path.is_dir() else None) or path
    names = dict(zip(COLUMNS, COLUMNS, strict=True)) | dict(columns or {})
    named = path.resolve().name if path.is_dir() else path.stem
    rows = read_rows(judged, _LAYOUT)
    learnt = _training_rows(path, judged, train)
    if _kind(rows[0], names) == PAIR_COLUMNS:
        return _pairs(named, rows, names, rows if learnt is None else learnt)
    task = _labelled(named, rows, names)
    if learnt is None:
        return _checked(_drawn(task))
    _kind(learnt[0], names, LABEL_COLUMNS)
    known = _labelled(named, learnt, names)
    return _checked(replace(task, train_texts=known.texts, train_labels=known.labels))


def _training_rows(source: Path, judged: Path, train: str | Path | None) -> list[Row] | None:
    if train is not None:
        return read_rows(Path(train).expanduser(), _LAYOUT)
    if not source.is_dir() or judged.stem == "train":
        return None
    found = find_split(source, "train", _LAYOUT, missing_ok=True)
    return None if found is None else read_rows(found, _LAYOUT)


def _kind(row: Row, names: Mapping[str, str], *only: tuple[str, ...]) -> tuple[str, ...]:
    """Tell pairs from labels by the columns there are."""
    found = [kind for kind in only or (PAIR_COLUMNS, LABEL_COLUMNS) if all(names[one] in row.values for one in kind)]
    if len(found) == 1:
        return found[0]
    word = "has columns of both kinds" if found else "lacks columns"
    raise SourceError(f"{row.file} {word}: it has {', '.join(map(repr, row.values))}; give {_LAYOUT}")


def _pairs(name: str, rows: Sequence[Row], names: Mapping[str, str], known: Sequence[Row]) -> SentencePairs:
    scores = tuple(row.score(names["score"]) for row in rows)
    if len(set(scores)) < 2:
        raise SourceError(f"{rows[0].file} has {len(rows)} pairs of one score; a correlation needs scores that differ")
    both = [names["sentence1"], names["sentence2"]]
    return SentencePairs(
        name=name,
        ids=tuple(str(row.line) for row in rows),
        first=tuple(row.text(both[0]) for row in rows),
        second=tuple(row.text(both[1]) for row in rows),
        scores=scores,
        sample=tuple(dict.fromkeys(row.text(column) for row in known for column in both)),
    )


def _labelled(name: str, rows: Sequence[Row], names: Mapping[str, str]) -> LabelledTexts:
    return LabelledTexts(
        name=name,
        ids=tuple(str(row.line) for row in rows),
        texts=tuple(row.text(names["text"]) for row in rows),
        labels=tuple(row.label(names["label"]) for row in rows),
    )


def _drawn(task: LabelledTexts) -> LabelledTexts:
    """Part the texts of one file; a text of two labels goes with its lesser one."""
    groups: dict[str, list[str]] = {}
    for text, label in {text: label for label, text in sorted(zip(task.labels, task.texts, strict=True))[::-1]}.items():
        groups.setdefault(label, []).append(text)
    learnt: set[str] = set()
    for group in groups.values():
        group.sort(key=lambda text: hashlib.sha256(text.encode("utf-8")).digest())
        learnt.update(group[: math.ceil(TRAIN_SHARE * len(group))])
    judged = [place for place, text in enumerate(task.texts) if text not in learnt]
    known = [place for place, text in enumerate(task.texts) if text in learnt]
    if not judged:
        raise SourceError(f"{task.name} has too few texts of each label to learn from some and judge others")
    return LabelledTexts(
        name=task.name,
        ids=tuple(task.ids[place] for place in judged),
        texts=tuple(task.texts[place] for place in judged),
        labels=tuple(task.labels[place] for place in judged),
        train_texts=tuple(task.texts[place] for place in known),
        train_labels=tuple(task.labels[place] for place in known),
        split="drawn",
    )


def _checked(task: LabelledTexts) -> LabelledTexts:
    if len(set(task.train_labels)) < 2:
        raise SourceError(f"{task.name} has the label {task.train_labels[0]!r} only; nothing can be learnt from one")
    return task
