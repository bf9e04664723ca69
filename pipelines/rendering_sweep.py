"""A sweep as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.printable import line, paragraphs
from pipelines.rendering import Render, layers_text, timed

if TYPE_CHECKING:
    from pipelines.evaluation.statistics import Estimate
    from pipelines.evaluation.sweep_records import AxisResult, Difference, Nested, Standing, SweepResult

_HEADINGS = ("mean", "95 %", "from main", "95 %", "p, Holm")
_SHOWN_CHOICES = 4


def sweep_report(result: SweepResult) -> Render:
    """Show each axis with what choosing along it is worth, and TwoNN's window among all windows."""

    def render(console: Console) -> None:
        main = result.main
        console.print(Text(line(f"{result.title}: {result.metric}"), style="bold"))
        estimate = main.estimates[result.metric]
        where = f"layers {layers_text(main.layers)}, bias {main.prefix_bias:g}, {main.pooling} pooling"
        console.print(line(f"Main        {estimate.mean:.4f}, {_interval(estimate)}, of {where}"))
        for axis in result.axes:
            console.print(_axis_table(axis))
            _show_nested(console, axis.nested)
        if result.standing is not None:
            _show_standing(console, result.standing)
        if result.overall is not None:
            console.print(Text(f"\nAny of the {len(result.configurations)} configurations", style="bold"))
            _show_nested(console, result.overall)
        _show_foot(console, result)

    return render


def _axis_table(axis: AxisResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(axis.axis)
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "95 %" else "right")
    for point in axis.points:
        own = point.label == axis.main
        apart = ("", "main", "") if own else _apart(point.difference, point.p_corrected)
        style = "bold" if point.label == axis.best else ""
        cells = (line(point.label), f"{point.estimate.mean:.4f}", _interval(point.estimate), *apart)
        table.add_row(*cells, style=style)
    return table


def _show_nested(console: Console, nested: Nested) -> None:
    apart, total = nested.difference, sum(nested.chosen.values())
    console.print(
        f"Chosen on other queries   {nested.estimate.mean:.4f}, {_interval(nested.estimate)}; the best in hindsight "
        f"has {nested.optimism:.4f} more"
    )
    console.print(f"            from main   {apart.mean:+.4f}, {_interval(apart, sign='+')}, p {apart.p_value:.4f}")
    shown = list(nested.chosen.items())[:_SHOWN_CHOICES]
    rest = len(nested.chosen) - len(shown)
    words = ", ".join(f"{label} {count / total:.0%}" for label, count in shown)
    console.print(line(f"               chosen   {words}{f', {rest} others' if rest else ''}"))


def _show_standing(console: Console, standing: Standing) -> None:
    console.print(Text("\nTwoNN's window", style="bold"))
    console.print(
        f"Layers {layers_text(standing.layers)}: rank {standing.rank} of {standing.windows} windows "
        f"(95 %: {standing.rank_low} to {standing.rank_high}), above {standing.percentile:.0f} % of the others"
    )
    against: Mapping[str, Difference | None] = {
        f"the best in hindsight, {standing.best}": standing.to_best,
        "the window chosen on other queries": standing.to_nested,
        "a window at random": standing.to_average,
        "no re-routing": standing.to_none,
    }
    for name, apart in against.items():
        if apart is not None:
            figures = f"{apart.mean:+.4f}, {_interval(apart, sign='+')}, p {apart.p_value:.4f}"
            console.print(f"            {figures}  from {name}")


def _show_foot(console: Console, result: SweepResult) -> None:
    counts = result.counts
    console.print(
        f"\nDocuments   {counts['documents']:,} in {counts['chunks']:,} chunks; {len(result.queries):,} queries"
    )
    console.print(f"Choice      {result.folds} folds, {result.repeats} partings; p against main, by Holm over the axis")
    console.print(f"Time        {timed(result.seconds)}")
    for warning in result.warnings:
        console.print(Padding(Text(f"Warning: {paragraphs(warning)}", style="yellow"), (0, 0, 0, 0)))


def _apart(difference: Difference, corrected: float) -> tuple[str, str, str]:
    return f"{difference.mean:+.4f}", _interval(difference, sign="+"), f"{corrected:.4f}"


def _interval(estimate: Estimate | Difference, sign: str = "") -> str:
    return f"{estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"
