"""`kvembed`: argument parsing and printing, nothing else.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with quarantined documents (a plan ends with 0 then),
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from pipelines import cli_options as options
from pipelines.cli_encoder import EncoderChoice
from pipelines.cli_index import IndexRequest, index_directly, index_through_flow, plan_index
from pipelines.cli_measure import demo, evaluate
from pipelines.cli_measure import layers as layers_command
from pipelines.cli_query import search_collection, verify_collection
from pipelines.console import DONE, FAILED, QUARANTINED, Terminal, discard_output
from pipelines.errors import JSON

app = typer.Typer(
    name="kvembed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    flags = given[: given.index("--")] if "--" in given else given
    terminal = Terminal(json_mode="--json" in flags, debug="--debug" in flags)
    try:
        code = app(given, prog_name="kvembed", standalone_mode=False)
    except typer.TyperException as error:  # wrong usage, found before a command began
        code = terminal.report(error)
    except OSError as error:  # help that nobody can read: commands answer for their own errors
        discard_output(sys.stdout)
        code = DONE if error.errno == errno.EPIPE else terminal.report(error)
    sys.exit(code if isinstance(code, int) else DONE)


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    """Index documents into Qdrant with a frozen LLM as the encoder, and search them."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"kvembed {installed('kvembed')}")
        raise typer.Exit


@app.command()
def index(
    source: options.Source,
    collection: options.Collection,
    store: options.Store = None,
    model: options.Model = None,
    revision: options.Revision = None,
    layers: options.Layers = None,
    prefix_bias: options.PrefixBias = None,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = None,
    pooling: options.PoolingChoice = None,
    device: options.Device = None,
    max_tokens: options.MaxTokens = None,
    id_field: options.IdField = None,
    text_field: options.TextField = None,
    title_field: options.TitleField = None,
    delete: options.Delete = "guarded",
    flow: Annotated[bool, typer.Option("--flow", help="Run as a Prefect flow, with retries and a record.")] = False,
    json_mode: options.Json = False,
    debug: options.Debug = False,
    verbose: options.Verbose = 0,
) -> None:
    """Bring a collection in line with a source: embed what is new or changed, delete what is gone."""
    request = IndexRequest(
        source=source,
        fields={"id_field": id_field, "text_field": text_field, "title_field": title_field},
        store=store,
        collection=collection,
        choice=EncoderChoice(model, revision, options.parse_layers(layers), prefix_bias, max_length, dtype, pooling),
        device=device,
        max_tokens=max_tokens,
        delete=delete,
    )
    with Terminal(json_mode=json_mode, debug=debug, verbosity=verbose) as terminal:
        from pipelines import rendering

        report = index_through_flow(request, terminal) if flow else index_directly(request, terminal)
        terminal.emit(report.to_dict(), rendering.index_report(report))
        terminal.exit_code = QUARANTINED if report.documents_quarantined else DONE


@app.command()
def plan(
    source: options.Source,
    collection: options.Collection,
    store: options.Store = None,
    model: options.Model = None,
    revision: options.Revision = None,
    layers: options.Layers = None,
    prefix_bias: options.PrefixBias = None,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = None,
    pooling: options.PoolingChoice = None,
    device: options.Device = None,
    max_tokens: options.MaxTokens = None,
    id_field: options.IdField = None,
    text_field: options.TextField = None,
    title_field: options.TitleField = None,
    delete: options.Delete = "guarded",
    json_mode: options.Json = False,
    debug: options.Debug = False,
    verbose: options.Verbose = 0,
) -> None:
    """Tell what `index` would do with the same options, and write nothing.

    It ends with 0 also when it lists quarantined documents; `index` ends with 3 then.
    """
    request = IndexRequest(
        source=source,
        fields={"id_field": id_field, "text_field": text_field, "title_field": title_field},
        store=store,
        collection=collection,
        choice=EncoderChoice(model, revision, options.parse_layers(layers), prefix_bias, max_length, dtype, pooling),
        device=device,
        max_tokens=max_tokens,
        delete=delete,
    )
    with Terminal(json_mode=json_mode, debug=debug, verbosity=verbose) as terminal:
        from pipelines import rendering

        planned = plan_index(request, terminal)
        terminal.emit(planned.to_dict(), rendering.plan_report(planned))


@app.command()
def search(
    name: options.Name,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question or words.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="Hits to show.")] = 5,
    store: options.Store = None,
    model: options.StoredModel = None,
    device: options.Device = None,
    json_mode: options.Json = False,
    debug: options.Debug = False,
    verbose: options.Verbose = 0,
) -> None:
    """Find the chunks nearest to a query, with the very encoder that filled the collection."""
    with Terminal(json_mode=json_mode, debug=debug, verbosity=verbose) as terminal:
        from pipelines import rendering

        hits = search_collection(name, query, limit, store, model, device, terminal)
        record: dict[str, JSON] = {"collection": name, "query": query, "hits": [hit.to_dict() for hit in hits]}
        terminal.emit(record, rendering.search_hits(name, hits))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One collection; all when not given.")] = None,
    store: options.Store = None,
    json_mode: options.Json = False,
    debug: options.Debug = False,
    verbose: options.Verbose = 0,
) -> None:
    """Show what the store holds, and by which encoder."""
    with Terminal(json_mode=json_mode, debug=debug, verbosity=verbose) as terminal:
        from pipelines import rendering
        from pipelines import status as collection_status

        states = collection_status(store, name)
        terminal.emit({"collections": [state.to_dict() for state in states]}, rendering.states(states))


@app.command()
def verify(
    name: options.Name,
    store: options.Store = None,
    model: options.StoredModel = None,
    json_mode: options.Json = False,
    debug: options.Debug = False,
    verbose: options.Verbose = 0,
) -> None:
    """Check a collection: its encoder still gives the stored vectors, its ledger and its points agree."""
    with Terminal(json_mode=json_mode, debug=debug, verbosity=verbose) as terminal:
        from pipelines import rendering

        checked = verify_collection(name, store, model, terminal)
        terminal.emit(checked.to_dict(), rendering.verification(name, checked))
        terminal.exit_code = DONE if checked.ok else FAILED


app.command("layers")(layers_command)
app.command("evaluate")(evaluate)
app.command("demo")(demo)
