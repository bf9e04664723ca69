"""Sentence tasks as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.printable import line, paragraphs
from pipelines.rendering import Render, layers_text, timed

if TYPE_CHECKING:
    from pipelines.evaluation.sentence_systems import SentenceSystem
    from pipelines.evaluation.sentences import SentenceResult

_NOTES = {
    "texts_also_in_training": "judged texts are in training too",
    "texts_of_unseen_labels": "judged texts have a label that training does not have, and count as wrong",
}


def sentence_report(result: SentenceResult) -> Render:
    """Show each system's metrics with their intervals, how it differs from the first, and what they rest on."""

    def render(console: Console) -> None:
        console.print(_table(result))
        counts = {key: number for key, number in result.task.counts.items() if key not in _NOTES}
        words = ", ".join(f"{number:,} {key.replace('_', ' ')}" for key, number in counts.items())
        drawn = " (drawn from the one file)" if getattr(result.task, "split", "") == "drawn" else ""
        console.print(f"Items       {words}{drawn}")
        for key, note in _NOTES.items():
            if number := result.task.counts.get(key, 0):
                console.print(f"            {number:,} {note}", style="yellow")
        console.print(f"Prompt      the {result.role}'s, for every text")
        for system in result.systems:
            _show_system(console, system)
        for warning in result.warnings:
            console.print(Text(f"Warning: {paragraphs(warning)}", style="yellow"))

    return render


def _table(result: SentenceResult) -> Table:
    several = len(result.systems) > 1
    table = Table(box=box.SIMPLE_HEAD, title=line(f"{result.task.name}: {result.kind}"), title_justify="left")
    table.add_column("system", no_wrap=True)
    for name in result.metrics:
        table.add_column(f"{name}, 95 %", no_wrap=True)
        if several:
            table.add_column("p", justify="right", no_wrap=True)
    p_values = {one.first: [metric.p_corrected for metric in one.metrics] for one in result.scores.comparisons}
    for system in result.systems:
        cells = []
        for place, found in enumerate(result.scores.estimates[system.name].values()):
            cells.append(f"{found.mean:.3f} [{found.low:.3f} {found.high:.3f}]")
            if several:
                cells.append(_p_value(p_values[system.name][place]) if system.name in p_values else "")
        table.add_row(Text(system.name), *map(Text, cells))
    table.caption = f"p: against {result.main.name}, corrected by Holm" if several else None
    table.caption_justify = "left"
    return table


def _show_system(console: Console, system: SentenceSystem) -> None:
    cost, layers = system.cost, system.identity["layers"]
    console.print(Text(system.name, style="bold"))
    speed = cost.tokens_per_second
    console.print(f"Speed       {f'{speed:,.0f} tokens/s, ' if speed else ''}{timed(cost.seconds)}")
    if isinstance(layers, list) and layers:
        console.print(f"Layers      {layers_text(layers)}")
    if cost.truncated_texts:
        console.print(f"Truncated   {cost.truncated_texts:,} of {cost.texts:,} texts", style="yellow")
    if system.probe:
        notes = {
            ", the edge of what was tried": system.probe["at_edge"],
            "; the solver did not converge": not system.probe["converged"],
        }
        told = "".join(note for note, holds in notes.items() if holds)
        console.print(f"Regression  C {system.probe['strength']:g}, by {system.probe['folds']} folds{told}")
    console.print(f"Fingerprint {system.fingerprint}")


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"
