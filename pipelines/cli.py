"""`kvembed`: argument parsing and printing, nothing else.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with quarantined documents (a plan ends with 0 then),
130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from pipelines import cli_evaluate as judge
from pipelines import cli_manage as manage
from pipelines import cli_measure as measure
from pipelines import cli_options as options
from pipelines import cli_report as reporting
from pipelines import cli_sentences as sentence_tasks
from pipelines import cli_sweep as sweeping
from pipelines.cli_encoder import prepare_models
from pipelines.cli_executor import ExecutorChoice
from pipelines.cli_index import IndexRequest, index_directly, index_through_flow, plan_index
from pipelines.cli_signature import spread
from pipelines.console import DONE, QUARANTINED, Terminal, discard_output
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
    # The interpreter's last act is to look for garbage; in all of torch and transformers that takes half a second.
    atexit.register(gc.freeze)
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
    chosen: ExecutorChoice,
    output: options.Output,
    wait: options.Wait = 0.0,
    flow: Annotated[bool, typer.Option("--flow", help="Run as a Prefect flow, with retries and a record.")] = False,
) -> None:
    """Bring a collection in line with a source: embed what is new or changed, delete what is gone.

    Another encoder or chunking than the collection's builds it anew; searches use the old one until that is done.
    """
    with output.terminal() as terminal:
        from pipelines import rendering

        if flow and chosen != ExecutorChoice():
            raise typer.BadParameter("--executor and --workers are not for --flow: a flow takes them as its parameters")
        report = (
            index_through_flow(request, wait, terminal) if flow else index_directly(request, wait, terminal, chosen)
        )
        terminal.emit(report.to_dict(), rendering.index_report(report))
        terminal.exit_code = QUARANTINED if report.documents_quarantined else DONE


@app.command()
@spread
def plan(request: IndexRequest, output: options.Output) -> None:
    """Tell what `index` would do with the same options, and write nothing.

    It ends with 0 also when it lists quarantined documents, where `index` ends with 3, and when `index` would refuse.
    """
    with output.terminal() as terminal:
        from pipelines import rendering

        planned, refused = plan_index(request, terminal)
        terminal.emit({**planned.to_dict(), "refused": refused}, rendering.plan_report(planned, refused))


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
        from pipelines import open_collection, rendering

        with terminal.waiting(f"opening {name}"):
            prepare_models(device)
            with open_collection(store, name, model=model, device=device) as opened:
                hits = opened.search(query, limit)
        record: dict[str, JSON] = {"collection": name, "query": query, "hits": [hit.to_dict() for hit in hits]}
        terminal.emit(record, rendering.search_hits(name, hits))


app.command()(spread(manage.status))
app.command()(spread(manage.verify))
app.command()(spread(manage.rollback))
app.command()(spread(manage.prune))
app.command()(spread(measure.layers))
app.command()(spread(judge.evaluate))
app.command()(spread(judge.compare))
app.command()(spread(reporting.report))
app.command()(spread(sentence_tasks.sentences))
app.command()(spread(sweeping.sweep))
app.command()(spread(measure.demo))
