"""mteb tasks of its own classes over data made here, so that no test needs the network."""

from __future__ import annotations

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata, TaskType

DOCUMENTS = {
    "d1": ("Ice", "Cold ice melts in the warm sun."),
    "d2": ("", "Bread is baked from flour, water and salt."),
    "d3": ("Ships", "Ships float because they displace water."),
    "d4": ("Plates", "The boundary layer of a flat plate grows with its length."),
    "d5": ("", "A file is compressed with gzip."),
}
QUERIES = {"q1": "what melts in the sun?", "q2": "how is bread made?", "q3": "boundary layer of a plate"}
RELEVANT = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d4": 1, "d3": 1}}
PAIRS = [
    ("Ice melts.", "Cold ice melts in the sun.", 4.0),
    ("Bread is baked.", "Ships float.", 0.5),
    ("A file is compressed.", "gzip compresses a file.", 4.5),
    ("The plate is flat.", "Water displaces ships.", 1.0),
    ("Salt and flour.", "Flour and salt.", 5.0),
    ("The sun is warm.", "Ice is cold.", 1.5),
]
LABELLED = [("ice is cold", 0), ("cold water", 0), ("warm sun", 1), ("the sun warms", 1)] * 8


def described(kind: TaskType, score: str, name: str | None = None) -> TaskMetadata:
    """What mteb wants to know of a task."""
    return TaskMetadata(
        name=name or f"Local{kind}",
        description="Data made for a test.",
        reference="https://example.org",
        dataset={"path": "local", "revision": "1"},
        type=kind,
        category="t2t" if kind != "Classification" else "t2c",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
        date=("2026-01-01", "2026-01-02"),
        domains=[],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


class LocalRetrieval(AbsTaskRetrieval):
    """Three questions, five documents, some with titles."""

    metadata = described("Retrieval", "ndcg_at_10")

    def load_data(self, num_proc: int | None = None, **_: object) -> None:
        rows = [{"id": name, "title": title, "text": text} for name, (title, text) in DOCUMENTS.items()]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(rows),
                    "queries": Dataset.from_list([{"id": name, "text": text} for name, text in QUERIES.items()]),
                    "relevant_docs": RELEVANT,
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


class LocalSTS(AbsTaskSTS):
    """Six pairs."""

    metadata = described("STS", "cosine_spearman")

    def load_data(self, num_proc: int | None = None, **_: object) -> None:
        first, second, scores = zip(*PAIRS, strict=True)
        columns = {"sentence1": list(first), "sentence2": list(second), "score": list(scores)}
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    """Two labels."""

    metadata = described("Classification", "accuracy")
    n_experiments = 2
    samples_per_label = 8

    def load_data(self, num_proc: int | None = None, **_: object) -> None:
        texts, labels = zip(*LABELLED, strict=True)
        rows = Dataset.from_dict({"text": list(texts), "label": list(labels)})
        self.dataset = DatasetDict({"train": rows, "test": rows})
        self.data_loaded = True
