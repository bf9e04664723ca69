"""Ingestion as a Prefect flow: the same call as on the command line, with stages, retries and a record around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Annotated, Literal, cast

from pydantic import BaseModel, Field, JsonValue, NonNegativeFloat, NonNegativeInt, PositiveInt

import pipelines
from flows.artifacts import ProgressArtifact, publish_figures, publish_quarantine
from flows.local_api import local_flow
from flows.secrets import store_key
from flows.stages import run_stages
from pipelines.encoder_choice import open_encoder
from pipelines.errors import JSON
from pipelines.executors import ExecutorName, open_executor
from pipelines.indexing import Indexing, open_indexing
from pipelines.options import Delete, DeletionGuard, IngestOptions, OnChange
from pipelines.report import IngestReport, Progress
from pipelines.storage import StorageConfig

Layers = Literal["auto"] | tuple[int, ...]
Fields = dict[str, JsonValue]
Given = Annotated[str, Field(min_length=1)]
"""Text that must be there: an environment variable that is not set becomes an empty one in prefect.yaml."""

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


@local_flow(name="index-corpus", run_name="index-{name}")
def index_corpus(
    source: Given,
    name: Given,
    store: str | None = None,
    model: str | None = None,
    layers: Layers = "auto",
    encoder: Fields | None = None,
    chunking: Fields | None = None,
    delete: Delete = "guarded",
    fields: dict[str, str | None] | None = None,
    device: str | None = None,
    options: IndexOptions | None = None,
    executor: ExecutorName = "inline",
    workers: PositiveInt | None = None,
) -> IngestReport:
    """Bring a collection in line with a source.

    Args:
        source: Folder, file, `.jsonl`, `.parquet` or `hf:NAME`, as the worker sees it.
        name: Collection.
        store: Folder of an embedded store, or URL of a Qdrant server; null takes that of the worker's environment.
        model: Folder or hub id; null takes the collection's own, or that of the worker's environment for a new one.
        layers: Re-routing layers; "auto" takes the collection's own, or chooses from the corpus.
        encoder: Further fields of the encoder's configuration.
        chunking: How documents are cut; null as the collection was cut.
        delete: What happens to documents that left the source.
        fields: `id_field`, `text_field`, `title_field` of a source of records.
        device: Torch device; the best one present when null.
        options: Further options of a run.
        executor: Who embeds: this process, workers on this machine, or Ray.
        workers: How many.
    """
    return index_in_stages(
        "index",
        source,
        name,
        store,
        model,
        layers,
        encoder,
        chunking,
        delete,
        fields,
        device,
        options,
        executor,
        workers,
    )


def index_in_stages(
    kind: str,
    source: str,
    name: str,
    store: str | None,
    model: str | None,
    layers: Layers,
    encoder: Fields | None,
    chunking: Fields | None,
    delete: Delete,
    fields: dict[str, str | None] | None,
    device: str | None,
    options: IndexOptions | None,
    executor: ExecutorName,
    workers: int | None,
) -> IngestReport:
    """Open what a run needs and go through its stages; parameters are those of `index_corpus`, `kind` its name."""
    progress = ProgressArtifact(name, _progress.get())
    cut = None if chunking is None else pipelines.ChunkingConfig.from_dict(chunking)
    allowed = _allowed(options or IndexOptions(), delete)
    given = _given(encoder or {}, model, layers)

    @contextmanager
    def opened() -> Iterator[Indexing]:
        found = pipelines.open_source(source, **(fields or {}))
        loaded = open_encoder(store, name, given, chunking=cut, device=device)
        with (
            closing(open_executor(executor, workers=workers, device=device)) as embedding,
            open_indexing(
                found, store, name, loaded, chunking=cut, options=allowed, executor=embedding, progress=progress
            ) as run,
        ):
            yield run

    with store_key():
        report = run_stages(opened)
    progress.finish()
    publish_figures(kind, name, report.to_dict(), f"Last run into collection {name}")
    publish_quarantine(name, report.quarantined, report.source)
    return report


def _given(encoder: Fields, model: str | None, layers: Layers) -> Fields:
    given: Fields = {field: value for field, value in encoder.items() if field not in ("model", "layers")}
    if model is not None:
        given["model"] = model
    if layers != "auto":
        given["layers"] = list(layers)
    return given


def _allowed(options: IndexOptions, delete: Delete) -> IngestOptions:
    given = {field: getattr(options, field) for field in IndexOptions.model_fields}
    return IngestOptions(delete=delete, **given)
