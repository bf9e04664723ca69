"""The pipeline that users run, asked the queries of a judged data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qdrant_client import QdrantClient

from pipelines.beir import RetrievalDataset
from pipelines.chunking import ChunkingConfig
from pipelines.evaluation.asking import ask, cost_of, package_versions
from pipelines.evaluation.measures import require_ranx
from pipelines.evaluation.memory import measured_memory
from pipelines.evaluation.results import EvaluationResult
from pipelines.evaluation.system_names import system_name
from pipelines.evaluation.systems import System, scored_system
from pipelines.evaluation.tasks import EvaluationTask, SystemBuilder, prepare_task
from pipelines.ingestion import ingest
from pipelines.report import Progress, named_progress
from pipelines.retrieval import open_collection
from pipelines.sources import open_source
from pipelines.store import open_store

if TYPE_CHECKING:
    from kvembed import KVEncoder

_COLLECTION = "evaluation"


def evaluate(
    dataset: str | Path | RetrievalDataset,
    encoder: KVEncoder,
    *,
    chunking: ChunkingConfig | None = None,
    beside: Sequence[SystemBuilder] = (),
    progress: Progress | None = None,
) -> EvaluationResult:
    """Index a data set into a throw-away store, search it with its queries, and score the rankings.

    A document ranks by its best chunk. What counts is as `prepare_task` says.

    Args:
        dataset: Folder in the layout of BEIR, or one that was read already.
        encoder: Any layers setting; "auto" is resolved from the corpus.
        chunking: How documents are cut.
        beside: Make further systems of the same task, such as baselines.
        progress: Told about every stage.

    Raises:
        SourceError: the folder is not such a data set.
        TerminalError: ranx is not installed.
    """
    require_ranx()
    task = prepare_task(dataset, encoder.tokenizer, chunking or ChunkingConfig())
    told = named_progress(progress, system_name(encoder.config)) if beside else progress
    systems = [encoder_system(task, encoder, progress=told)]
    systems += [build(task, progress) for build in beside]
    return EvaluationResult(
        dataset=task.name,
        queries=task.queries,
        counts=task.counts,
        systems=tuple(systems),
        versions=package_versions(),
        depth=task.depth,
    )


def encoder_system(
    task: EvaluationTask,
    encoder: KVEncoder,
    *,
    name: str | None = None,
    chunking: ChunkingConfig | None = None,
    progress: Progress | None = None,
) -> System:
    """Take a task through the real pipeline with one encoder: cut, embed, store, search.

    Args:
        task: What is asked.
        encoder: Any layers setting; "auto" is resolved from the corpus.
        name: Of the system; None takes `system_name`.
        chunking: None takes the task's.
        progress: Told about every stage.
    """
    source = open_source(str(task.corpus), id_field="_id", text_field="text", title_field="title")
    with measured_memory() as peak, open_store(QdrantClient(":memory:")) as store:
        report = ingest(source, store, _COLLECTION, encoder, chunking=chunking or task.chunking, progress=progress)
        with open_collection(store, _COLLECTION, encoder=encoder.with_layers(report.layers)) as opened:
            pinned = opened.pinned()
            answers = ask(pinned, task.texts, task.depth + 1, progress=progress)
    manifest = pinned.manifest
    return scored_system(
        name or system_name(encoder.config),
        task.queries,
        {query: task.ranked(query, found) for query, found in zip(task.queries, answers.rankings, strict=True)},
        identity=manifest.encoder,
        fingerprint=manifest.fingerprint,
        chunking=manifest.chunking,
        figures=cost_of(answers, peak, report),
        layer_profile=manifest.layer_profile,
    )
