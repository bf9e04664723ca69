"""One way of judging sentences: its vectors, what it answers by them, and what that took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipelines.evaluation.memory import measured_memory
from pipelines.evaluation.sentence_probes import fit_probe
from pipelines.evaluation.sentence_tasks import LabelledTexts, SentencePairs, SentenceTask
from pipelines.report import silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvembed import Encoding, KVEncoder
    from kvembed.prompts import Role
    from pipelines.errors import JSON
    from pipelines.report import Progress

Answers: TypeAlias = tuple[float | str, ...]
"""Per item: of a pair the cosine similarity, of a text the label."""

_SLICE = 1024
"""Texts between two words of progress."""


@dataclass(frozen=True, slots=True)
class SentenceCost:
    """What a system took.

    Attributes:
        texts: Embedded; equal ones once.
        tokens: Of those, prompts included.
        truncated_texts: Of which something was cut.
        seconds: Stage -> seconds: "embed", "answer", and where they were part of it "select_layers", "fit_transform".
        peak_memory_bytes: Largest resident memory of the process meanwhile, the model and Python included.
        peak_device_memory_bytes: Largest memory taken on the accelerator meanwhile; None without one.
    """

    texts: int
    tokens: int
    truncated_texts: int
    seconds: Mapping[str, float]
    peak_memory_bytes: int
    peak_device_memory_bytes: int | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens, prompts included, per second of embedding."""
        seconds = self.seconds.get("embed", 0.0)
        return self.tokens / seconds if seconds else None

    def to_dict(self) -> dict[str, JSON]:
        """Return everything as JSON values, with what follows from it."""
        return {**asdict(self), "seconds": dict(self.seconds), "tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True, slots=True)
class SentenceSystem:
    """A system's answers.

    Attributes:
        name: As `pipelines.evaluation.System.name`.
        answers: In the order of the task's items.
        identity: `KVEncoder.identity()`.
        fingerprint: The encoder's.
        cost: What it took.
        probe: How the regression was fitted; empty of pairs.
        layer_profile: Of layers that were chosen for this task; None of those that were given.
    """

    name: str
    answers: Answers
    identity: Mapping[str, JSON]
    fingerprint: str
    cost: SentenceCost
    probe: Mapping[str, JSON] = field(default_factory=dict)
    layer_profile: Mapping[str, JSON] | None = None


def sentence_system(
    task: SentenceTask,
    encoder: KVEncoder,
    *,
    name: str,
    role: Role,
    layer_profile: Mapping[str, JSON] | None = None,
    seconds: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> SentenceSystem:
    """Embed a task's texts, all by one prompt, and answer.

    Args:
        task: What is asked.
        encoder: Its layers are resolved, its transform is fitted.
        name: Of the system.
        role: Whose prompt wraps every text.
        layer_profile: As `SentenceSystem.layer_profile`.
        seconds: What was spent on it before.
        progress: Told of a stage with the system's name.

    Raises:
        TerminalError: texts are to be classified and scikit-learn is not installed.
        KVEmbedError: as `KVEncoder.encode_counted`.
    """
    texts = list(dict.fromkeys(_texts(task)))
    with measured_memory() as peak:
        started = time.perf_counter()
        encoded = list(_encoded(encoder, texts, role, name, progress))
        embedded = time.perf_counter()
        vectors = np.concatenate([part.vectors for part in encoded])
        answers, probe = _answers(task, dict(zip(texts, vectors, strict=True)))
        answered = time.perf_counter()
    return SentenceSystem(
        name=name,
        answers=answers,
        identity=encoder.identity(),
        fingerprint=encoder.fingerprint,
        cost=SentenceCost(
            texts=len(texts),
            tokens=sum(int(part.tokens.sum()) for part in encoded),
            truncated_texts=sum(int((part.truncated_tokens > 0).sum()) for part in encoded),
            seconds={**(seconds or {}), "embed": embedded - started, "answer": answered - embedded},
            peak_memory_bytes=peak.process,
            peak_device_memory_bytes=peak.device,
        ),
        probe=probe,
        layer_profile=layer_profile,
    )


def cosine_similarities(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; 0 where one of them is 0.

    Args:
        first: (n, E).
        second: (n, E).
    """
    left, right = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products: NDArray[np.float64] = (left * right).sum(axis=1)
    return np.where(lengths > 0.0, products / np.where(lengths > 0.0, lengths, 1.0), 0.0)


def _encoded(encoder: KVEncoder, texts: list[str], role: Role, name: str, progress: Progress) -> Iterator[Encoding]:
    progress(name, 0, len(texts))
    for start in range(0, len(texts), _SLICE):
        yield encoder.encode_counted(texts[start : start + _SLICE], role)
        progress(name, min(start + _SLICE, len(texts)), len(texts))


def _texts(task: SentenceTask) -> Sequence[str]:
    if isinstance(task, SentencePairs):
        return [*task.first, *task.second]
    return [*task.train_texts, *task.texts]


def _answers(task: SentenceTask, vectors: Mapping[str, NDArray[np.float32]]) -> tuple[Answers, Mapping[str, JSON]]:
    def stacked(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([vectors[text] for text in texts])

    if isinstance(task, LabelledTexts):
        probe = fit_probe(stacked(task.train_texts), task.train_labels, stacked(task.texts))
        return probe.answers, probe.to_dict()
    return tuple(cosine_similarities(stacked(task.first), stacked(task.second)).tolist()), {}
