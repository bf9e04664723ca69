"""What `index` and `plan` share: source, collection, encoder and chunking, in the order in which they can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

from pipelines import cli_options as options
from pipelines.cli_encoder import CuttingChoice, EncoderChoice, load_encoder, prepare_models
from pipelines.cli_executor import ExecutorChoice
from pipelines.cli_run import RunChoice
from pipelines.errors import ForeignCollectionError
from pipelines.runners import find_runner

if TYPE_CHECKING:
    from kvembed import EncoderConfig, KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.collection import Collection
    from pipelines.console import Terminal
    from pipelines.report import IngestPlan, IngestReport, Progress
    from pipelines.sources import Source
    from pipelines.storage import StorageConfig
    from pipelines.store import Store


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


def index_directly(request: IndexRequest, wait: float, terminal: Terminal, chosen: ExecutorChoice) -> IngestReport:
    """Run `pipelines.ingest`."""
    from pipelines import ingest
    from pipelines.store import open_store

    run, device = request.run, request.encoder.device
    own = replace(request, encoder=replace(request.encoder, device=chosen.own_device(device)))
    with closing(chosen.opened(device)) as executor, _prepared(own, terminal, open_store) as ready:
        return ingest(
            ready.source,
            ready.store,
            request.collection,
            ready.encoder,
            chunking=ready.chunking,
            delete=run.delete,
            guard=run.guard(),
            storage=ready.storage,
            on_change=run.on_change,
            wait=wait,
            retry_quarantined=run.retry_quarantined,
            max_quarantined=run.max_quarantined,
            adopt=run.adopt,
            executor=executor,
            progress=ready.progress,
        )


def plan_index(request: IndexRequest, terminal: Terminal) -> tuple[IngestPlan, str | None]:
    """Run `pipelines.plan`; and say why the deletion guard would refuse the plan, if it would."""
    from pipelines import DeletionGuardError, plan
    from pipelines.planning import check_deletions
    from pipelines.store import open_store_to_look

    run = request.run
    with _prepared(request, terminal, open_store_to_look) as ready:
        planned = plan(
            ready.source,
            ready.store,
            request.collection,
            ready.encoder,
            chunking=ready.chunking,
            delete=run.delete,
            on_change=run.on_change,
            retry_quarantined=run.retry_quarantined,
            adopt=run.adopt,
            progress=ready.progress,
        )
    try:
        check_deletions(planned, run.delete, run.guard())
    except DeletionGuardError as error:
        return planned, str(error)
    return planned, None


def index_through_flow(request: IndexRequest, wait: float, terminal: Terminal) -> IngestReport:
    """Run the flow, with the same arguments that `index_directly` would use.

    Raises:
        TerminalError: the flow is not installed.
    """
    from pipelines.settings import load_settings
    from pipelines.sources import open_source
    from pipelines.store import open_store_to_look

    open_source(request.source, **asdict(request.fields))
    with open_store_to_look(request.store) as store:
        found = _collection(store, request)
    manifest = found.manifest if found is not None else None
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
            options=request.run.as_json(wait, manifest),
            fields=asdict(request.fields),
            device=request.encoder.device,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class _Ready:
    """What a request names, opened and loaded."""

    source: Source
    store: Store
    encoder: KVEncoder
    chunking: ChunkingConfig
    storage: StorageConfig | None
    progress: Progress


@contextmanager
def _prepared(request: IndexRequest, terminal: Terminal, opened: Callable[[str | None], Store]) -> Iterator[_Ready]:
    """Open everything, what fails fast and cheaply first."""
    from pipelines.sources import open_source
    from pipelines.transform_choice import adopt_transform

    with terminal.waiting("opening source and store"):
        source = open_source(request.source, **asdict(request.fields))
        store = opened(request.store)
    with store:
        found = _collection(store, request)
        manifest = found.manifest if found is not None else None
        config = request.encoder.config(manifest)
        chunking = request.cutting.config(manifest)
        storage = request.run.storage(manifest)
        device = request.encoder.device
        if found is not None and config.layers != "auto":
            config = adopt_transform(store, config, found)
        if found is not None and device is None and _filled(found, config, chunking):
            with terminal.progress() as progress:
                yield _Ready(source, store, _when_needed(config, progress), chunking, storage, progress)
            return
        with terminal.waiting(f"loading {config.model}"):
            encoder = load_encoder(config, device)
        with terminal.progress() as progress:
            yield _Ready(source, store, encoder, chunking, storage, progress)


def _filled(found: Collection, config: EncoderConfig, chunking: ChunkingConfig) -> bool:
    """Tell whether a collection is what this encoder and chunking made, by the model's files as they lie there now."""
    from pipelines.collection import changes

    return config.layers != "auto" and not changes(found, config, chunking)


def _when_needed(config: EncoderConfig, progress: Progress) -> KVEncoder:
    """Return an encoder that is loaded when there is something to embed."""
    from pipelines.lazy_encoder import LazyEncoder

    def load(config: EncoderConfig) -> KVEncoder:
        progress("load", 0, None)
        return load_encoder(config, None)

    return cast("KVEncoder", LazyEncoder(config, load))


def _collection(store: Store, request: IndexRequest) -> Collection | None:
    from pipelines.collection import find_collection

    try:
        return find_collection(store, request.collection)
    except ForeignCollectionError:
        if not request.run.adopt:
            raise
        return None
