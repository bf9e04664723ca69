"""The command that judges sentence vectors: `sentences`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines import cli_options as options
from pipelines.cli_encoder import EncoderChoice, load_encoder
from pipelines.console import FAILED
from pipelines.invocation import command_line

if TYPE_CHECKING:
    from pipelines.console import Terminal
    from pipelines.evaluation.sentence_tasks import SentenceTask
    from pipelines.evaluation.sentences import SentenceResult

_GATE = "For continuous integration"
_DATA = "Data"
_EVERY_METRIC = ("spearman", "pearson", "accuracy", "macro-f1")


def _thresholds(texts: Sequence[str] | None, metrics: Sequence[str]) -> dict[str, float]:
    from pipelines.evaluation.thresholds import parse_thresholds

    try:
        return parse_thresholds(texts or (), metrics)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _checked_thresholds(texts: list[str] | None) -> list[str] | None:
    _thresholds(texts, _EVERY_METRIC)
    return texts


def _renamed(given: Sequence[str] | None) -> dict[str, str]:
    from pipelines.evaluation.sentence_tasks import COLUMNS

    pairs = [text.partition("=") for text in given or ()]
    for name, _, column in pairs:
        if name not in COLUMNS or not column:
            raise typer.BadParameter(
                f"{name + '=' + column!r} names no column; give NAME=COLUMN, where NAME is one of {', '.join(COLUMNS)}"
            )
    return {name: column for name, _, column in pairs}


def _checked_columns(given: list[str] | None) -> list[str] | None:
    _renamed(given)
    return given


def _systems(given: Sequence[str] | None) -> tuple[str, ...]:
    from pipelines.evaluation.sentences import parse_systems

    try:
        return parse_systems(given) if given else ()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@dataclass(frozen=True, slots=True)
class SentenceRequest:
    """What is to be judged, and how it is made."""

    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .tsv, .csv or .jsonl file with the columns sentence1, sentence2, score (similarity) or text, label "
            "(classification); or a folder with test.* and, to learn from, train.*.",
            show_default=False,
        ),
    ]
    encoder: EncoderChoice
    split: Annotated[
        str,
        typer.Option("--split", metavar="NAME", help="Of a folder, the file that is judged.", rich_help_panel=_DATA),
    ] = "test"
    train: Annotated[
        Path | None,
        typer.Option(
            "--train",
            metavar="FILE",
            help="File to learn labels from.",
            show_default="the folder's train file; of a single file 80 % of its texts",
            rich_help_panel=_DATA,
        ),
    ] = None
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=COLUMN",
            callback=_checked_columns,
            help="What the file calls a column, such as text=question; may be given several times.",
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ] = None
    role: Annotated[
        Literal["document", "query"],
        typer.Option("--role", help="Whose prompt wraps every text.", rich_help_panel=_DATA),
    ] = "document"
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="NAME,NAME|all",
            help="Systems over the same weights to judge beside: static, last-token, mean, prompt-eol, echo, "
            "token-prepending, no-rerouting, kv-rerouting; or all.",
            show_default=False,
        ),
    ] = None


def sentences(
    invocation: typer.Context,
    request: SentenceRequest,
    output: options.Output,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write summary.json and per_item.jsonl there.",
            show_default=False,
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="METRIC=VALUE",
            callback=_checked_thresholds,
            help="End with 1 when it is lower, such as spearman=0.6; may be given several times.",
            show_default=False,
            rich_help_panel=_GATE,
        ),
    ] = None,
) -> None:
    """Measure how well vectors tell how alike sentences are, or what kind a text is.

    Similarity is the rank correlation of cosines with people's scores; kinds are learnt by a logistic regression.
    """
    with output.terminal() as terminal:
        from pipelines import rendering_sentences as rendering
        from pipelines.evaluation.sentence_results import write_sentence_result
        from pipelines.evaluation.thresholds import too_low

        beside = _systems(request.beside)
        task, thresholds = _prepared(request, fail_under, folder)
        result = replace(_judged(task, request, beside, terminal), command=command_line(invocation))
        failures = too_low(result.metrics, thresholds)
        if folder is not None:
            write_sentence_result(result, folder)
        terminal.emit({**result.summary(), "failures": failures}, rendering.sentence_report(result))
        for failure in failures:
            terminal.note(f"Failed: {failure}", style="bold red")
        if failures:
            terminal.exit_code = FAILED


def _prepared(
    request: SentenceRequest, fail_under: list[str] | None, folder: Path | None
) -> tuple[SentenceTask, dict[str, float]]:
    """Read the data, and find out before the work what would fail after it."""
    from pipelines.evaluation.sentence_probes import require_sklearn
    from pipelines.evaluation.sentence_results import check_sentence_output
    from pipelines.evaluation.sentence_tasks import LabelledTexts, read_sentence_task
    from pipelines.evaluation.sentences import metrics_of

    task = read_sentence_task(
        request.source, split=request.split, train=request.train, columns=_renamed(request.column)
    )
    thresholds = _thresholds(fail_under, metrics_of(task))
    if folder is not None:
        check_sentence_output(folder)
    if isinstance(task, LabelledTexts):
        require_sklearn()
    return task, thresholds


def _judged(task: SentenceTask, request: SentenceRequest, beside: Sequence[str], terminal: Terminal) -> SentenceResult:
    from pipelines.evaluation.sentences import evaluate_sentences

    config = request.encoder.config()
    with terminal.waiting(f"loading {config.model}"):
        loaded = load_encoder(config, request.encoder.device)
    with loaded, terminal.progress() as progress:
        return evaluate_sentences(task, loaded, role=request.role, beside=beside, progress=progress)
