"""A corpus anew: another model, other layers or another chunking, built beside what is searched, then swapped in."""

from __future__ import annotations

from datetime import timedelta

from prefect.logging import get_run_logger
from pydantic import NonNegativeFloat, PositiveInt

import pipelines
from flows.artifacts import publish_figures
from flows.index import Fields, Given, IndexOptions, Layers, index_in_stages
from flows.local_api import local_flow
from flows.secrets import store_key
from flows.transient import retried
from pipelines.executors import ExecutorName
from pipelines.generations import PruneReport
from pipelines.options import Delete
from pipelines.report import IngestReport


@local_flow(name="reindex-corpus", run_name="reindex-{name}")
def reindex_corpus(
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
    prune_days: NonNegativeFloat | None = None,
) -> IngestReport:
    """Build a collection anew with what is given, and let its name stand for it when it is complete and verified.

    Searches use the old one until then, and `kvembed rollback` returns to it. What is not given stays as it is; where
    nothing is another than it was, only what changed in the source is embedded.

    Args:
        source: As of `index-corpus`, as are all that follow.
        name: Collection.
        store: Of the collection.
        model: Another one chooses its own layers.
        layers: Re-routing layers.
        encoder: Further fields of the encoder's configuration.
        chunking: How documents are cut.
        delete: What happens to documents that left the source.
        fields: Of a source of records.
        device: Torch device.
        options: Further options of a run; `on_change` is "rebuild" whatever they say.
        executor: Who embeds.
        workers: How many.
        prune_days: Delete generations that were replaced longer ago than this; null keeps all of them.
    """
    rebuild = (options or IndexOptions()).model_copy(update={"on_change": "rebuild"})
    report = index_in_stages(
        "reindex",
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
        rebuild,
        executor,
        workers,
    )
    if prune_days is not None:
        prune_replaced(store, name, prune_days, rebuild.wait)
    return report


@retried("prune")
def prune_replaced(store: str | None, name: str, days: float, wait: float) -> PruneReport:
    """Delete what a name stood for before, once nobody rolls back to it any more."""
    with store_key():
        pruned = pipelines.prune(store, name, grace=timedelta(days=days), wait=wait)
    get_run_logger().info("%d generations removed, %d kept", len(pruned.removed), len(pruned.kept))
    publish_figures("prune", name, pruned.to_dict(), f"Last pruning of collection {name}")
    return pruned
