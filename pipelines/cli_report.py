"""The command that shows results: `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipelines import cli_options as options


def _checked_metric(text: str) -> str:
    from pipelines.evaluation.measures import METRICS

    if text.strip().lower() not in METRICS:
        raise typer.BadParameter(f"{text!r} is no metric; there are {', '.join(METRICS)}")
    return text.strip().lower()


def _checked_page(path: Path) -> Path:
    if path.suffix.lower() != ".html":
        raise typer.BadParameter(f"{path} is not named as a page; name it .html, the Markdown beside it will be .md")
    return path


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What is to be shown, and how."""

    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Results of `evaluate --output` and `sweep --output`.", show_default=False
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

    Results of the same queries are put side by side. Query texts are in the results; the texts of documents are read
    from the data set, where --data names it. Mind what the data's licence says before you pass the page on.
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
