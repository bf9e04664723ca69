"""What `index` and `plan` share: source, collection, encoder and chunking, in the order in which they can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.cli_encoder import EncoderChoice, chunking_for, load_encoder, prepare_models
from pipelines.runners import find_runner

if TYPE_CHECKING:
    from kvembed import EncoderConfig, KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.console import Terminal
    from pipelines.manifest import Manifest
    from pipelines.report import IngestPlan, IngestReport
    from pipelines.sources import Source
    from pipelines.store import Store


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """One command's arguments; None means not given."""

    source: str
    collection: str
    fields: Mapping[str, str | None]
    choice: EncoderChoice
    store: str | None = None
    device: str | None = None
    max_tokens: int | None = None
    delete: Literal["guarded", "all", "none"] = "guarded"


def index_directly(request: IndexRequest, terminal: Terminal) -> IngestReport:
    """Run `pipelines.ingest`."""
    from pipelines import ingest
    from pipelines.store import open_store

    with ExitStack() as stack:
        source, store, encoder, chunking = _prepared(request, terminal, stack, open_store)
        progress = stack.enter_context(terminal.progress())
        return ingest(
            source,
            store,
            request.collection,
            encoder,
            chunking=chunking,
            delete=request.delete,
            progress=progress,
        )


def plan_index(request: IndexRequest, terminal: Terminal) -> IngestPlan:
    """Run `pipelines.plan`."""
    from pipelines import plan
    from pipelines.store import open_store_to_look

    with ExitStack() as stack:
        source, store, encoder, chunking = _prepared(request, terminal, stack, open_store_to_look)
        progress = stack.enter_context(terminal.progress())
        return plan(
            source,
            store,
            request.collection,
            encoder,
            chunking=chunking,
            delete=request.delete,
            progress=progress,
        )


def index_through_flow(request: IndexRequest, terminal: Terminal) -> IngestReport:
    """Run the flow, with the same arguments that `index_directly` would use.

    Raises:
        TerminalError: the flow is not installed.
    """
    from pipelines.settings import load_settings
    from pipelines.sources import open_source
    from pipelines.store import open_store_to_look

    open_source(request.source, **request.fields)
    with open_store_to_look(request.store) as store:
        manifest = _manifest(store, request.collection)
    config = request.choice.config(manifest)
    with terminal.progress() as progress:
        progress("start", 0, None)
        run = find_runner()
        prepare_models(request.device)
        return run(
            source=request.source,
            store=request.store or load_settings().default_store(),
            name=request.collection,
            model=config.model,
            layers=config.layers,
            encoder=config.to_dict(),
            chunking=chunking_for(request.max_tokens, manifest),
            delete=request.delete,
            fields=request.fields,
            device=request.device,
            progress=progress,
        )


def _prepared(
    request: IndexRequest, terminal: Terminal, stack: ExitStack, opened: Callable[[str | None], Store]
) -> tuple[Source, Store, KVEncoder, ChunkingConfig]:
    """Open everything, what fails fast and cheaply first; the store stays open until the stack unwinds."""
    from pipelines.sources import open_source

    with terminal.waiting("opening source and store"):
        source = open_source(request.source, **request.fields)
        store = stack.enter_context(opened(request.store))
        manifest = _manifest(store, request.collection)
    config: EncoderConfig = request.choice.config(manifest)
    with terminal.waiting(f"loading {config.model}"):
        encoder = load_encoder(config, request.device)
    return source, store, encoder, chunking_for(request.max_tokens, manifest)


def _manifest(store: Store, name: str) -> Manifest | None:
    from pipelines.collection import find_collection

    found = find_collection(store, name)
    return found.manifest if found is not None else None
