"""The command that sweeps: what each choice of an encoder is worth on a judged data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pipelines import cli_options as options
from pipelines.cli_encoder import CuttingChoice, EncoderChoice, load_encoder
from pipelines.cli_sweep_options import JudgingChoice, SweptChoice
from pipelines.console import QUARANTINED
from pipelines.invocation import command_line

if TYPE_CHECKING:
    from pipelines.console import Terminal
    from pipelines.evaluation.sweep import SweepTask, Watcher
    from pipelines.evaluation.sweep_files import Scored

Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Folder with corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv.",
        show_default=False,
    ),
]
SweepFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Write sweep.json and each configuration's scores there; what it has already is not measured again.",
        show_default=False,
    ),
]


def sweep(
    invocation: typer.Context,
    dataset: Dataset,
    swept: SweptChoice,
    judging: JudgingChoice,
    encoder: EncoderChoice,
    cutting: CuttingChoice,
    output: options.Output,
    folder: SweepFolder = None,
) -> None:
    """Measure what bias, layer window, pooling, prompts and transforms are worth on judged queries.

    It goes around the encoder given. Values are chosen on some queries and scored on others; TwoNN's window is ranked.
    """
    with output.terminal() as terminal:
        from pipelines import rendering_sweep as rendering
        from pipelines.beir import read_dataset
        from pipelines.evaluation.measures import require_ranx
        from pipelines.evaluation.sweep import prepare_sweep, run_sweep
        from pipelines.evaluation.sweep_files import ScoreFolder, check_sweep_output, sweep_record, write_sweep

        plan, how, chunking = swept.plan(), judging.options(), cutting.config()
        judged = read_dataset(dataset)
        how.folds.check(min(len(judged.queries), how.part.queries or len(judged.queries)))
        scores = ScoreFolder(None) if folder is None else check_sweep_output(folder)
        with terminal.waiting("loading ranx"):
            require_ranx()
        config = encoder.config()
        with terminal.waiting(f"loading {config.model}"):
            loaded = load_encoder(config, encoder.device)
        with loaded:
            with terminal.progress() as progress:
                task = prepare_sweep(judged, loaded, plan, how, chunking=chunking, progress=progress)
            _announce(task, terminal)
            with _watched(terminal) as watch:
                result = run_sweep(task, scores=scores, watch=watch, command=command_line(invocation))
        if folder is not None:
            write_sweep(result, folder)
        terminal.emit(sweep_record(result), rendering.sweep_report(result))
        if result.counts["documents_failed"]:
            terminal.exit_code = QUARANTINED


def _announce(task: SweepTask, terminal: Terminal) -> None:
    """Say on stderr what is going to be measured, and what a reader has to know."""
    passes, corpus = len(task.passes()), task.corpus
    terminal.note(
        f"{len(task.grid.configurations)} configurations by {passes} forward passes over {len(corpus.texts):,} chunks "
        f"and {len(corpus.task.queries):,} queries",
        style="dim",
    )
    for warning in task.warnings:
        terminal.note(f"Warning: {warning}")


@contextmanager
def _watched(terminal: Terminal) -> Iterator[Watcher]:
    """Give a watcher that moves one bar with the time left, and prints a line per configuration to who asked."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<28.28}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=terminal.errors,
        transient=True,
        disable=not terminal.errors.is_terminal,
        speed_estimate_period=600.0,
    )
    everything = bar.add_task("measuring", total=None)
    started = perf_counter()

    def watch(name: str, done: int, total: int, scored: Scored | None) -> None:
        bar.update(everything, description=name, completed=done, total=total)
        if scored is not None and terminal.verbosity:
            left = (perf_counter() - started) * (total - done) / max(done, 1)
            terminal.errors.print(Text(f"{name}: {scored.seconds:.1f} s, {left:.0f} s left"))

    with bar:
        yield watch
