"""Ingestion as a Prefect flow: the same call as on the command line, with retries and a record around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Literal, cast

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from pydantic import BaseModel, JsonValue, NonNegativeFloat, NonNegativeInt

import kvembed
import pipelines
from flows.local_api import local_flow
from pipelines.errors import JSON, TransientError
from pipelines.options import Delete, DeletionGuard, OnChange
from pipelines.report import IngestReport, Progress
from pipelines.storage import StorageConfig

Layers = Literal["auto"] | tuple[int, ...]
Fields = dict[str, JsonValue]

_RETRY_DELAYS = [2.0, 10.0, 30.0]

# A callable is no JSON, so it cannot be a parameter of the flow; a sync flow and its tasks run in the caller's context.
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


class IndexOptions(BaseModel, extra="forbid", frozen=True):
    """`pipelines.options.IngestOptions` as JSON, checked before a run begins; its `delete` is the flow's."""

    guard: DeletionGuard = DeletionGuard()
    on_change: OnChange = "rebuild"
    wait: NonNegativeFloat = 0.0
    retry_quarantined: bool = False
    max_quarantined: NonNegativeInt | None = None
    adopt: bool = False
    storage: StorageConfig | None = None


def run_index(
    source: str,
    store: str,
    name: str,
    model: str,
    *,
    layers: Layers = "auto",
    encoder: Mapping[str, JSON] | None = None,
    chunking: pipelines.ChunkingConfig | None = None,
    delete: Delete = "guarded",
    options: Mapping[str, JSON] | None = None,
    fields: Mapping[str, str | None] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Index a source through the flow, and return what `pipelines.ingest` returns.

    Args:
        source: Folder, file, `.jsonl`, `.parquet` or `hf:NAME`.
        store: Folder of an embedded store, or URL of a Qdrant server.
        name: Collection.
        model: Folder or hub id of a decoder-only model, or `kvembed.DEMO_MODEL`.
        layers: Re-routing layers; "auto" takes the collection's own, or chooses from the corpus.
        encoder: Further fields of `EncoderConfig`, as its `to_dict` gives them; `model` and `layers` win over it.
        chunking: How documents are cut; None as `pipelines.ingest` takes it.
        delete: What happens to documents that left the source.
        options: Further fields of `pipelines.options.IngestOptions`, as JSON.
        fields: `id_field`, `text_field`, `title_field` of a source of records.
        device: Torch device; the best one present when None.
        progress: Told about every step, in this process.

    Raises:
        TerminalError: The run failed and would fail again.
        TransientError: The run failed after every retry.
        KVEmbedError: The model cannot be used.
        ValueError: An option is not legal.
    """
    token = _progress.set(progress)
    try:
        return index_corpus(
            source=source,
            store=store,
            name=name,
            model=model,
            layers=layers,
            encoder=None if encoder is None else cast(Fields, dict(encoder)),
            chunking=None if chunking is None else cast(Fields, chunking.to_dict()),
            delete=delete,
            options=IndexOptions.model_validate(options or {}),
            fields=None if fields is None else dict(fields),
            device=device,
        )
    finally:
        _progress.reset(token)


def _may_pass(_task: Task[..., object], _run: TaskRun, state: State[object]) -> bool:
    return isinstance(state.result(raise_on_failure=False), TransientError)


@task(
    name="ingest",
    retries=len(_RETRY_DELAYS),
    retry_delay_seconds=_RETRY_DELAYS,
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def ingest_source(
    source: str,
    store: str,
    name: str,
    model: str,
    layers: Layers,
    encoder: Fields | None,
    chunking: Fields | None,
    delete: Delete,
    options: IndexOptions,
    fields: dict[str, str | None] | None,
    device: str | None,
) -> IngestReport:
    """Load the encoder and bring the collection up to date; vectors never leave this call."""
    config = replace(kvembed.EncoderConfig.from_dict({**(encoder or {}), "model": model}), layers=layers)
    return pipelines.ingest(
        pipelines.open_source(source, **(fields or {})),
        store,
        name,
        kvembed.KVEncoder(config, device=device),
        chunking=None if chunking is None else pipelines.ChunkingConfig.from_dict(chunking),
        delete=delete,
        guard=options.guard,
        storage=options.storage,
        on_change=options.on_change,
        wait=options.wait,
        retry_quarantined=options.retry_quarantined,
        max_quarantined=options.max_quarantined,
        adopt=options.adopt,
        progress=_progress.get(),
    )


@local_flow(name="index-corpus", run_name="index-{name}")
def index_corpus(
    source: str,
    store: str,
    name: str,
    model: str,
    layers: Layers = "auto",
    encoder: Fields | None = None,
    chunking: Fields | None = None,
    delete: Delete = "guarded",
    fields: dict[str, str | None] | None = None,
    device: str | None = None,
    options: IndexOptions | None = None,
) -> IngestReport:
    """Index a source and publish the report as an artifact; parameters are those of `run_index`, as JSON."""
    allowed = options or IndexOptions()
    report = ingest_source(source, store, name, model, layers, encoder, chunking, delete, allowed, fields, device)
    create_markdown_artifact(
        markdown=_as_markdown(report.to_dict()),
        key="index-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
        description=f"Last run into collection {name}",
    )
    return report


def _as_markdown(report: Mapping[str, JSON]) -> str:
    """Render a report as one table, nested records as rows `stage: embed`."""
    rows = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}: {inner}", entry) for inner, entry in value.items()]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            rows += [(key, " · ".join(str(part) for part in entry.values())) for entry in value]
        else:
            rows.append((key, value))
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows]
    return "\n".join(["| Figure | Value |", "|---|---|", *lines])


def _cell(value: JSON) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
