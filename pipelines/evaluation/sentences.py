"""Sentence tasks: how alike two sentences are, and what a label says, judged on frozen vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from kvembed.text_sample import TextSample
from pipelines.errors import TerminalError
from pipelines.evaluation.asking import package_versions
from pipelines.evaluation.baselines import beside_config
from pipelines.evaluation.sentence_scores import METRICS, SentenceScores, score_sentences
from pipelines.evaluation.sentence_systems import SentenceSystem, sentence_system
from pipelines.evaluation.sentence_tasks import LabelledTexts, SentenceTask
from pipelines.evaluation.summaries import INTERVALS, TESTS
from pipelines.evaluation.system_names import BASELINES, BM25, BM25_DOCUMENTS, parse_beside, system_name
from pipelines.layer_choice import SAMPLE, resolve_layers
from pipelines.report import Progress, silent
from pipelines.transform_choice import fitted_encoder

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from kvembed.prompts import Role
    from pipelines.errors import JSON

BESIDE = tuple(name for name in BASELINES if name not in (BM25, BM25_DOCUMENTS))
"""Systems over the same weights that may stand beside the one asked about: all baselines that have vectors."""

_SYMMETRICAL: Role = "document"


@dataclass(frozen=True, slots=True)
class SentenceResult:
    """What systems scored on one task, and everything needed to get it again.

    Attributes:
        task: What was asked.
        role: Whose prompt wrapped every text.
        systems: The first is the one asked about; names differ.
        scores: Their metrics and how the others differ from the first.
        warnings: What the choice of layers said.
        versions: Package -> version.
        command: As `EvaluationResult.command`.
    """

    task: SentenceTask
    role: Role
    systems: tuple[SentenceSystem, ...]
    scores: SentenceScores
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def kind(self) -> str:
        """The task's kind."""
        return "classification" if isinstance(self.task, LabelledTexts) else "similarity"

    @property
    def main(self) -> SentenceSystem:
        """The system asked about."""
        return self.systems[0]

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> value, of the system asked about."""
        return self.scores.metrics(self.main.name)

    def summary(self) -> dict[str, JSON]:
        """Return everything but single answers as JSON values."""
        task = self.task
        return {
            "dataset": task.name,
            "kind": self.kind,
            "role": self.role,
            **task.counts,
            "split": task.split if isinstance(task, LabelledTexts) else None,
            "metrics": self.metrics,
            "interval": {**INTERVALS, "method": "BCa bootstrap over items"},
            "systems": [self._system(system) for system in self.systems],
            "comparison": {**TESTS, "test": "answers of two systems traded item by item, two-sided"},
            "comparisons": [_renamed(comparison.to_dict()) for comparison in self.scores.comparisons],
            "warnings": list(self.warnings),
            "versions": dict(self.versions),
            "command": self.command,
        }

    def _system(self, system: SentenceSystem) -> dict[str, JSON]:
        return {
            "name": system.name,
            "metrics": {name: asdict(one) for name, one in self.scores.estimates[system.name].items()},
            "identity": system.identity,
            "fingerprint": system.fingerprint,
            "probe": system.probe,
            "figures": system.cost.to_dict(),
            "layer_profile": system.layer_profile,
        }


def evaluate_sentences(
    task: SentenceTask,
    encoder: KVEncoder,
    *,
    role: Role = _SYMMETRICAL,
    beside: Sequence[str] = (),
    progress: Progress = silent,
) -> SentenceResult:
    """Judge an encoder, and systems over the same weights beside it.

    Both sentences of a pair, and all texts to classify, get the same prompt: the tasks are symmetrical. Re-routing
    layers "auto", and transforms that want a sample, are chosen from the task's sample, without any label.

    Args:
        task: What is asked.
        encoder: Any layers setting.
        role: Whose prompt that is; the document's, as of all texts that are stored.
        beside: Of `BESIDE`; where they are all of them, the encoder's own is left out.
        progress: Told of each stage.

    Raises:
        TerminalError: a name is the encoder's own, or scikit-learn is needed and not installed.
        KVEmbedError: a method does not fit the model, or what was asked of it.
    """
    lineup = _lineup(encoder, beside)
    sample = TextSample(SAMPLE)
    sample.add(task.sample)
    systems: list[SentenceSystem] = []
    warnings: list[str] = []
    for name, asked in lineup:
        ready, profile, seconds, warning = _resolved(asked, sample.texts, progress)
        warnings += [warning] if warning else []
        systems.append(
            sentence_system(
                task, ready, name=name, role=role, layer_profile=profile, seconds=seconds, progress=progress
            )
        )
    progress("score", 0, None)
    return SentenceResult(
        task, role, tuple(systems), score_sentences(task, systems), tuple(warnings), package_versions()
    )


def parse_systems(texts: Sequence[str]) -> tuple[str, ...]:
    """Read names as `parse_beside`, of systems that have vectors.

    Raises:
        ValueError: no such name, or it ranks documents by their words.
    """
    names = parse_beside(texts)
    if names == BASELINES:
        return BESIDE
    if lexical := [name for name in names if name not in BESIDE]:
        raise ValueError(f"{lexical[0]!r} ranks documents and knows no sentences; legal are {', '.join(BESIDE)}, all")
    return names


def metrics_of(task: SentenceTask) -> tuple[str, ...]:
    """Return the names of a task's metrics, the main one first."""
    return METRICS[type(task)]


def _lineup(encoder: KVEncoder, beside: Sequence[str]) -> list[tuple[str, KVEncoder]]:
    own = system_name(encoder.config)
    if own in beside and tuple(beside) != BESIDE:
        raise TerminalError(f"{own} is the system asked about and cannot stand beside itself; leave it out")
    others = (name for name in beside if name != own)
    return [
        (own, encoder),
        *((name, encoder.with_config(beside_config(name, encoder.config))) for name in others),
    ]


def _resolved(
    encoder: KVEncoder, texts: list[str], progress: Progress
) -> tuple[KVEncoder, Mapping[str, JSON] | None, dict[str, float], str | None]:
    seconds: dict[str, float] = {}
    profile, warning = None, None
    if encoder.config.layers == "auto":
        started = time.perf_counter()
        progress("select_layers", 0, None)
        encoder, profile, warning = resolve_layers(encoder, texts)
        seconds["select_layers"] = time.perf_counter() - started
    return fitted_encoder(encoder, texts, progress, seconds), profile, seconds, warning


def _renamed(comparison: dict[str, JSON]) -> dict[str, JSON]:
    return {("items" if name == "queries" else name): value for name, value in comparison.items() if name != "left_out"}
