"""The command that shows results: `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import cli_options as options

if TYPE_CHECKING:
    from pipelines.console import Terminal
    from pipelines.evaluation import EvaluationResult


def _checked_metric(text: str) -> str:
    from pipelines.evaluation.measures import METRICS

    if text.strip().lower() not in METRICS:
        raise typer.BadParameter(f"{text!r} is no metric; there are {', '.join(METRICS)}")
    return text.strip().lower()


def _checked_page(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() != ".html":
        raise typer.BadParameter(f"{path} is not named as a page; name it .html, the Markdown beside it will be .md")
    return path


PageOfResult = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="PAGE.html",
        callback=_checked_page,
        help="Show the result as a page there, and in Markdown beside it; documents' texts are on it.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What is to be shown, and how."""

    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER", help="Results of `evaluate --output` and `sweep --output`.", show_default=False
        ),
    ]
    page: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE.html",
            callback=_checked_page,
            help="Where the page goes; the same in Markdown is written beside it, as PAGE.md.",
        ),
    ] = Path("report.html")
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Data set that was evaluated, for the texts of documents; may be given for each.",
            show_default=False,
        ),
    ] = None
    metric: Annotated[
        str,
        typer.Option(
            "--metric", callback=_checked_metric, help="By which queries are chosen and systems set against each other."
        ),
    ] = "ndcg@10"
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SYSTEM",
            help="Set the first system against this one, query by query.",
            show_default="the best of the others",
        ),
    ] = None
    queries: Annotated[int, typer.Option("--queries", min=0, help="Worst, best, … queries to show of each kind.")] = 5


def report(request: ReportRequest, output: options.Output) -> None:
    """Show results as one HTML page that needs nothing else, and as Markdown.

    Results of the same queries are put side by side. The texts of queries are in the results,
    those of documents are read from --data. Mind the data's licence before you pass the page on.
    """
    with output.terminal() as terminal:
        from pipelines import rendering_report as rendering
        from pipelines.evaluation import report as reports

        chosen = reports.ReportOptions(request.metric, request.against, request.queries, tuple(request.data or ()))
        reports.check_report_output(request.page)
        with terminal.waiting("reading results"):
            findings = reports.read_findings(request.folders)
        with terminal.waiting("drawing"):
            written = reports.write_report(reports.make_report(findings, chosen), request.page)
        terminal.emit(rendering.report_record(written), rendering.written_report(written))


def check_page(page: Path | None) -> None:
    """Find out before the work whether a page can be written; nothing where none is wanted."""
    from pipelines.evaluation.report import check_report_output

    if page is not None:
        check_report_output(page)


def write_page(result: EvaluationResult, page: Path | None, data: Path | None, terminal: Terminal) -> None:
    """Show a result that is at hand; nothing where no page is wanted.

    Args:
        result: To be shown.
        page: Of the HTML.
        data: Data set that was evaluated; None for a collection, whose documents are shown by their ids.
        terminal: Told where the page is.
    """
    from pipelines.evaluation import report as reports

    if page is None:
        return
    chosen = reports.ReportOptions(data=(data,) if data is not None else ())
    with terminal.waiting("drawing"):
        written = reports.write_report(reports.make_report(reports.Findings((result,)), chosen), page)
    terminal.note(f"Report: {written.html} and {written.markdown}", style="green")
