"""The options of `kvembed sweep`: what is swept, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli_sweep_values import (
    parse_axes,
    parse_numbers,
    parse_poolings,
    parse_transforms,
    parse_widths,
    parse_windows,
    read_prompts,
)

if TYPE_CHECKING:
    from pipelines.evaluation.sweep import SweepOptions
    from pipelines.evaluation.sweep_grid import SweepPlan

_SWEPT = "What is swept"
_JUDGED = "How it is judged"


@dataclass(frozen=True, slots=True)
class SweptChoice:
    """Options that say what is swept; None means the defaults."""

    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            metavar="NAMES",
            help="Which of bias, window, pooling, prompt, transform.",
            show_default="all",
            rich_help_panel=_SWEPT,
        ),
    ] = None
    grid: Annotated[
        Literal["one-factor", "full"],
        typer.Option(
            "--grid",
            help="One factor at a time around the encoder given, or every combination.",
            rich_help_panel=_SWEPT,
        ),
    ] = "one-factor"
    biases: Annotated[
        str | None,
        typer.Option(
            "--biases",
            metavar="NUMBERS",
            help="Prefix biases, such as -1,0,1,2.",
            show_default="-4 to 8",
            rich_help_panel=_SWEPT,
        ),
    ] = None
    windows: Annotated[
        str | None,
        typer.Option(
            "--windows",
            metavar="WINDOWS",
            help="Windows, such as none;1;2,3.",
            show_default="every start, and none",
            rich_help_panel=_SWEPT,
        ),
    ] = None
    widths: Annotated[
        str | None,
        typer.Option(
            "--widths",
            metavar="NUMBERS",
            help="Layers per window, such as 1,3, at every start.",
            show_default="the method's rule",
            rich_help_panel=_SWEPT,
        ),
    ] = None
    poolings: Annotated[
        str | None,
        typer.Option(
            "--poolings",
            metavar="NAMES",
            help="Poolings.",
            show_default="hybrid,mean,last_token",
            rich_help_panel=_SWEPT,
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="JSON file of prompts by name, each of query and document.",
            show_default="the method's own, and parts of it",
            rich_help_panel=_SWEPT,
        ),
    ] = None
    transforms: Annotated[
        str | None,
        typer.Option(
            "--transforms",
            metavar="WORDS",
            help="Transforms, such as none;center;whiten,shrinkage=0.9.",
            show_default="six of them",
            rich_help_panel=_SWEPT,
        ),
    ] = None

    def plan(self) -> SweepPlan:
        """Return what is asked for.

        Raises:
            typer.BadParameter: values of an axis that is not swept, or that cannot be read.
            SourceError: the prompts cannot be read.
        """
        from pipelines.evaluation.sweep_grid import SweepPlan
        from pipelines.evaluation.sweep_records import AXES

        axes = AXES if self.axes is None else parse_axes(self.axes)
        given = {
            "biases": "bias",
            "windows": "window",
            "widths": "window",
            "poolings": "pooling",
            "prompts": "prompt",
            "transforms": "transform",
        }
        for name, axis in given.items():
            if getattr(self, name) is not None and axis not in axes:
                raise typer.BadParameter(f"--{name} gives values of {axis}, which --axes leaves out; leave one out")
        if self.windows is not None and self.widths is not None:
            raise typer.BadParameter("--windows names the windows and --widths makes them; give one of both")
        return SweepPlan(
            axes=axes,
            grid=self.grid,
            biases=None if self.biases is None else parse_numbers(self.biases),
            windows=None if self.windows is None else parse_windows(self.windows),
            widths=None if self.widths is None else parse_widths(self.widths),
            poolings=None if self.poolings is None else parse_poolings(self.poolings),
            prompts=None if self.prompts is None else read_prompts(self.prompts),
            transforms=None if self.transforms is None else parse_transforms(self.transforms),
        )


@dataclass(frozen=True, slots=True)
class JudgingChoice:
    """Options that say how values are judged."""

    metric: Annotated[
        str,
        typer.Option("--metric", help="Chooses and compares; all metrics are written.", rich_help_panel=_JUDGED),
    ] = "ndcg@10"
    folds: Annotated[
        int,
        typer.Option(
            "--folds",
            min=2,
            help="Choose on all but one of so many parts of the queries, score on that one.",
            rich_help_panel=_JUDGED,
        ),
    ] = 5
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Part the queries so often.", rich_help_panel=_JUDGED)
    ] = 20
    queries: Annotated[
        int | None,
        typer.Option(
            "--queries",
            metavar="N",
            min=1,
            help="Keep a part of the queries; the result is named a subset.",
            show_default="all",
            rich_help_panel=_JUDGED,
        ),
    ] = None
    documents: Annotated[
        int | None,
        typer.Option(
            "--documents",
            metavar="N",
            min=1,
            help="Keep a part of the documents, all judged ones among them; the result is named a subset.",
            show_default="all",
            rich_help_panel=_JUDGED,
        ),
    ] = None
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of parts and folds.", rich_help_panel=_JUDGED)
    ] = 0

    def options(self) -> SweepOptions:
        """Return how values are judged.

        Raises:
            typer.BadParameter: no such metric.
        """
        from pipelines.evaluation.measures import METRICS
        from pipelines.evaluation.sweep import SweepOptions
        from pipelines.evaluation.sweep_choice import Folds
        from pipelines.evaluation.sweep_corpus import Part

        if self.metric not in METRICS:
            raise typer.BadParameter(f"{self.metric!r} is no metric; give one of {', '.join(METRICS)}")
        return SweepOptions(
            self.metric, Folds(self.folds, self.repeats, self.seed), Part(self.queries, self.documents, self.seed)
        )
