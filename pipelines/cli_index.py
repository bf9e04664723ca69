"""What `index` and `plan` share: source, collection, encoder and chunking, in the order in which they can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pipelines import cli_options as options
from pipelines.cli_encoder import CuttingChoice, EncoderChoice, load_encoder, prepare_models
from pipelines.cli_run import RunChoice
from pipelines.runners import find_runner

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.console import Terminal
    from pipelines.manifest import Manifest
    from pipelines.report import IngestPlan, IngestReport, Progress
    from pipelines.sources import Source
    from pipelines.store import Store

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """What a command is to index, where to, and how."""

    source: options.Source
    collection: options.Collection
    encoder: EncoderChoice
    cutting: CuttingChoice
    fields: options.FieldChoice
    run: RunChoice
    store: options.Store = None


class _Call(Protocol[R_co]):
    """`pipelines.ingest` or `pipelines.plan`."""

    def __call__(
        self,
        source: Source,
        store: Store,
        name: str,
        encoder: KVEncoder,
        *,
        chunking: ChunkingConfig,
        delete: Literal["guarded", "all", "none"],
        progress: Progress,
    ) -> R_co: ...


def index_directly(request: IndexRequest, terminal: Terminal) -> IngestReport:
    """Run `pipelines.ingest`."""
    from pipelines import ingest
    from pipelines.store import open_store

    return _run(request, terminal, open_store, ingest)


def plan_index(request: IndexRequest, terminal: Terminal) -> IngestPlan:
    """Run `pipelines.plan`."""
    from pipelines import plan
    from pipelines.store import open_store_to_look

    return _run(request, terminal, open_store_to_look, plan)


def index_through_flow(request: IndexRequest, terminal: Terminal) -> IngestReport:
    """Run the flow, with the same arguments that `index_directly` would use.

    Raises:
        TerminalError: the flow is not installed.
    """
    from pipelines.settings import load_settings
    from pipelines.sources import open_source
    from pipelines.store import open_store_to_look

    open_source(request.source, **asdict(request.fields))
    with open_store_to_look(request.store) as store:
        manifest = _manifest(store, request.collection)
    config = request.encoder.config(manifest)
    with terminal.progress() as progress:
        progress("start", 0, None)
        run = find_runner()
        prepare_models(request.encoder.device)
        return run(
            source=request.source,
            store=request.store or load_settings().default_store(),
            name=request.collection,
            model=config.model,
            layers=config.layers,
            encoder=config.to_dict(),
            chunking=request.cutting.config(manifest),
            delete=request.run.delete,
            fields=asdict(request.fields),
            device=request.encoder.device,
            progress=progress,
        )


def _run(
    request: IndexRequest,
    terminal: Terminal,
    opened: Callable[[str | None], Store],
    call: _Call[R_co],
) -> R_co:
    """Open everything, what fails fast and cheaply first, and call."""
    from pipelines.sources import open_source

    with terminal.waiting("opening source and store"):
        source = open_source(request.source, **asdict(request.fields))
        store = opened(request.store)
    with store:
        manifest = _manifest(store, request.collection)
        config = request.encoder.config(manifest)
        chunking = request.cutting.config(manifest)
        with terminal.waiting(f"loading {config.model}"):
            encoder = load_encoder(config, request.encoder.device)
        with terminal.progress() as progress:
            return call(
                source,
                store,
                request.collection,
                encoder,
                chunking=chunking,
                delete=request.run.delete,
                progress=progress,
            )


def _manifest(store: Store, name: str) -> Manifest | None:
    from pipelines.collection import find_collection

    found = find_collection(store, name)
    return found.manifest if found is not None else None
