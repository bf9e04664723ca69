"""A sentence task's result in a folder.

```
FOLDER/summary.json       metrics with intervals, comparisons, configuration, fingerprints, what it took, versions
FOLDER/per_item.jsonl     of the first system: an item a line, with what people said and what it answered
FOLDER/NAME/…             per_item.jsonl of every further system
```
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import TerminalError
from pipelines.evaluation.result_files import check_output
from pipelines.evaluation.sentence_tasks import SentencePairs, SentenceTask

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation.sentence_systems import SentenceSystem
    from pipelines.evaluation.sentences import SentenceResult

SCHEMA = 1
"""Version of the layout; raised when an older reader would misread it."""

_SUMMARY, _PER_ITEM = "summary.json", "per_item.jsonl"


def write_sentence_result(result: SentenceResult, folder: str | Path) -> Path:
    """Write a result, in place of an earlier one.

    Args:
        result: Of any number of systems.
        folder: New, empty, or holding an earlier result.

    Returns:
        The folder.

    Raises:
        TerminalError: it cannot be written to, or something else lies there.
    """
    root = check_sentence_output(folder)
    try:
        _remove_earlier(root)
        for place, system in enumerate(result.systems):
            own = root / system.name if place else root
            own.mkdir(exist_ok=True)
            with (own / _PER_ITEM).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in items(result.task, system))
        summary = json.dumps({"schema": SCHEMA, **result.summary()}, indent=2, ensure_ascii=False, allow_nan=False)
        (root / _SUMMARY).write_text(summary + "\n", encoding="utf-8")
    except OSError as error:
        raise TerminalError(f"results cannot be written to {root}: {error}; choose another --output") from error
    return root


def check_sentence_output(folder: str | Path) -> Path:
    """Make the folder if need be, and refuse one that holds anything but an earlier result of sentences.

    Raises:
        TerminalError: it cannot be written to, or something else lies there.
    """
    root = check_output(folder)
    if (root / _SUMMARY).is_file() and not (root / _PER_ITEM).is_file():
        raise TerminalError(f"{root} holds a result of `kvembed evaluate`; choose a new or empty folder with --output")
    return root


def items(task: SentenceTask, system: SentenceSystem) -> Iterator[dict[str, JSON]]:
    """Yield each item with what people said of it and what a system answered."""
    if isinstance(task, SentencePairs):
        rows = zip(task.ids, task.first, task.second, task.scores, system.answers, strict=True)
        for name, first, second, score, similarity in rows:
            yield {"line": name, "sentence1": first, "sentence2": second, "score": score, "similarity": similarity}
        return
    for name, text, label, answer in zip(task.ids, task.texts, task.labels, system.answers, strict=True):
        yield {"line": name, "text": text, "label": label, "answer": answer}


def _remove_earlier(root: Path) -> None:
    """Take an earlier result away, its summary first."""
    if not (root / _SUMMARY).is_file():
        return
    (root / _SUMMARY).unlink()
    for own in [root, *(path.parent for path in root.glob(f"*/{_PER_ITEM}"))]:
        (own / _PER_ITEM).unlink(missing_ok=True)
        if own != root and not any(own.iterdir()):
            shutil.rmtree(own)
