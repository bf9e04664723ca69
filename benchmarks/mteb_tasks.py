"""Tasks of mteb's own classes over data that every machine has, and how many tokens a task of mteb holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from pipelines.demo import read_questions
from pipelines.stdlib_docs import stdlib_documents

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskType

CHARACTERS = 4.0
"""Of a token, about, in English."""
PROMPT_TOKENS = 12.0
"""Of a compression prompt, about."""

_PAIRS = (
    ("Compress a file with gzip.", "Make a file smaller with gzip.", 5.0),
    ("Compress a file with gzip.", "Decompress a file with gzip.", 3.0),
    ("Parse a date from a string.", "Read a date out of text.", 4.5),
    ("Parse a date from a string.", "Format a date as a string.", 2.5),
    ("Open a network connection.", "Connect to a server by TCP.", 4.0),
    ("Open a network connection.", "Close the window.", 0.5),
    ("Sort a list of numbers.", "Put numbers in order.", 4.5),
    ("Sort a list of numbers.", "Draw a random number.", 1.5),
    ("Run a program and read its output.", "Start a subprocess and capture stdout.", 4.5),
    ("Run a program and read its output.", "Write a log message.", 0.5),
    ("Send an e-mail.", "Deliver a message by SMTP.", 4.0),
    ("Send an e-mail.", "Parse command line options.", 0.0),
)


def described(kind: TaskType, name: str, score: str) -> TaskMetadata:
    """What mteb wants to know of a task."""
    return TaskMetadata(
        name=name,
        description="For a rehearsal; its figures say nothing of a model.",
        reference="https://docs.python.org/3/library/",
        dataset={"path": "local", "revision": "1"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
        date=("2026-01-01", "2026-11-23"),
        domains=["Programming"],
        task_subtypes=[],
        license="not specified",
        annotations_creators="human-annotated",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


class StandardLibraryRetrieval(AbsTaskRetrieval):
    """The demonstration's hand-labelled questions on the documentation of Python's library."""

    metadata = described("Retrieval", "StandardLibraryRetrieval", "ndcg_at_10")

    def load_data(self, num_proc: int | None = None, **_: object) -> None:
        """Read documentation and questions."""
        documents = [{"id": name, "title": "", "text": text} for name, text in stdlib_documents()]
        known = {row["id"] for row in documents}
        asked = {f"q{number}": question for number, question in enumerate(read_questions())}
        relevant = {name: {one: 1 for one in sorted(question.modules & known)} for name, question in asked.items()}
        queries = [{"id": name, "text": asked[name].question} for name in asked if relevant[name]]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(documents),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": {row["id"]: relevant[row["id"]] for row in queries},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


class ProgrammersSTS(AbsTaskSTS):
    """Twelve pairs, scored by one person."""

    metadata = described("STS", "ProgrammersSTS", "cosine_spearman")

    def load_data(self, num_proc: int | None = None, **_: object) -> None:
        """Lay out the pairs."""
        first, second, scores = (list(column) for column in zip(*_PAIRS, strict=True))
        self.dataset = DatasetDict(
            {"test": Dataset.from_dict({"sentence1": first, "sentence2": second, "score": scores})}
        )
        self.data_loaded = True


def local_tasks() -> list[AbsTask]:
    """Return tasks for a rehearsal."""
    return [StandardLibraryRetrieval(), ProgrammersSTS()]


def tokens_of(task: AbsTask, max_length: int) -> float | None:
    """Estimate the tokens of a task, prompts included, from the counts that mteb carries; None where it has none.

    A kind of text whose mean is over the limit counts as the limit each. Of multilingual tasks only the languages that
    are run count.
    """
    counts = task.metadata.descriptive_stats
    if not counts:
        return None
    return sum(
        _tokens(part, max_length) for split in task.eval_splits for part in _subsets(task, counts.get(split, {}))
    )


def _subsets(task: AbsTask, split: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = split.get("hf_subset_descriptive_stats")
    return [split] if not parts else [parts[name] for name in task.hf_subsets if name in parts]


def _tokens(counts: Mapping[str, Any], max_length: int) -> float:
    total = 0.0
    for name, kind in counts.items():
        if name.endswith(("text_statistics", "text1_statistics", "text2_statistics", "summaries_statistics")):
            total += _of_kind(kind, max_length)
    return total


def _of_kind(kind: Mapping[str, float] | None, max_length: int) -> float:
    if not kind or not kind.get("average_text_length"):
        return 0.0
    texts = kind["total_text_length"] / kind["average_text_length"]
    return texts * min(float(max_length), kind["average_text_length"] / CHARACTERS + PROMPT_TOKENS)
