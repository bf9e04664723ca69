"""`kvembed`: argument parsing and printing, nothing else.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with quarantined documents (a plan ends with 0 then),
130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from pipelines import cli_options as options
from pipelines.cli_index import IndexRequest, index_directly, index_through_flow, plan_index
from pipelines.cli_measure import demo, evaluate
from pipelines.cli_measure import layers as layers_command
from pipelines.cli_query import search_collection, verify_collection
from pipelines.cli_signature import spread
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
@spread
def index(
    request: IndexRequest,
    output: options.Output,
    flow: Annotated[bool, typer.Option("--flow", help="Run as a Prefect flow, with retries and a record.")] = False,
) -> None:
    """Bring a collection in line with a source: embed what is new or changed, delete what is gone."""
    with output.terminal() as terminal:
        from pipelines import rendering

        report = index_through_flow(request, terminal) if flow else index_directly(request, terminal)
        terminal.emit(report.to_dict(), rendering.index_report(report))
        terminal.exit_code = QUARANTINED if report.documents_quarantined else DONE


@app.command()
@spread
def plan(request: IndexRequest, output: options.Output) -> None:
    """Tell what `index` would do with the same options, and write nothing.

    It ends with 0 also when it lists quarantined documents; `index` ends with 3 then.
    """
    with output.terminal() as terminal:
        from pipelines import rendering

        planned = plan_index(request, terminal)
        terminal.emit(planned.to_dict(), rendering.plan_report(planned))


@app.command()
@spread
def search(
    name: options.Name,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question or words.", show_default=False)],
    output: options.Output,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="Hits to show.")] = 5,
    store: options.Store = None,
    model: options.StoredModel = None,
    device: options.Device = None,
) -> None:
    """Find the chunks nearest to a query, with the very encoder that filled the collection."""
    with output.terminal() as terminal:
        from pipelines import rendering

        hits = search_collection(name, query, limit, store, model, device, terminal)
        record: dict[str, JSON] = {"collection": name, "query": query, "hits": [hit.to_dict() for hit in hits]}
        terminal.emit(record, rendering.search_hits(name, hits))


@app.command()
@spread
def status(
    output: options.Output,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One collection; all when not given.")] = None,
    store: options.Store = None,
) -> None:
    """Show what the store holds, and by which encoder."""
    with output.terminal() as terminal:
        from pipelines import rendering
        from pipelines import status as collection_status

        states = collection_status(store, name)
        terminal.emit({"collections": [state.to_dict() for state in states]}, rendering.states(states))


@app.command()
@spread
def verify(
    name: options.Name,
    output: options.Output,
    store: options.Store = None,
    model: options.StoredModel = None,
) -> None:
    """Check a collection: its encoder still gives the stored vectors, its ledger and its points agree."""
    with output.terminal() as terminal:
        from pipelines import rendering

        checked = verify_collection(name, store, model, terminal)
        terminal.emit(checked.to_dict(), rendering.verification(name, checked))
        terminal.exit_code = DONE if checked.ok else FAILED


app.command("layers")(spread(layers_command))
app.command("evaluate")(spread(evaluate))
app.command("demo")(spread(demo))
