"""How far a command is, on stderr: bars for who watches, a line per stage for who asked."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_LABELS = {
    "documents": "collecting documentation",
    "start": "starting the flow",
    "load": "loading the model",
    "plan": "reading documents",
    "lease": "waiting for the write lease",
    "select_layers": "choosing layers",
    "fit_transform": "fitting the transform",
    "embed": "embedding documents",
    "chunk": "cutting documents",
    "delete": "deleting documents",
    "verify": "checking the new generation",
    "open": "opening the collection",
    "check_points": "comparing points",
    "check_vectors": "comparing vectors",
    "search": "searching",
    "ask": "asking questions",
}


def stage_bars(console: Console) -> Bars:
    """Return bars that vanish when they are done."""
    return Bars(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[count]:>15}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


class Stages:
    """Callback `(stage, done, total)` that tells where one stage ends and the next one begins.

    Args:
        bars: Shows a bar per stage, in the order in which the stages come.
        lines: Gets a line for every stage that came to its end, with the seconds since the one before it.
    """

    def __init__(self, bars: Bars | None = None, lines: Console | None = None) -> None:
        self._bars = bars
        self._lines = lines
        self._tasks: dict[str, TaskID] = {}
        self._current = ""
        self._done = 0
        self._last = perf_counter()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Note how far a stage is."""
        if stage != self._current or done < self._done:
            self.finish()
            self._begin(stage)
        self._done = done
        if self._bars is not None:
            count = "" if not done else f"{done:,}" if total is None else f"{done:,}/{total:,}"
            self._bars.update(self._tasks[stage], completed=done, total=total, count=count)

    def finish(self) -> None:
        """End the stage that goes on; a bar whose end nobody could foresee is full then."""
        if not self._current:
            return
        if self._bars is not None:
            done = max(self._done, 1)
            self._bars.update(self._tasks[self._current], completed=done, total=done)
        if self._lines is not None:
            count = f"{self._done:,}, " if self._done else ""
            self._lines.print(Text(f"{_label(self._current)}: {count}{perf_counter() - self._last:.1f} s"))
        self._current, self._last = "", perf_counter()

    def _begin(self, stage: str) -> None:
        if self._bars is not None:
            for earlier in [name for name in self._tasks if name == stage or _owner(name) != _owner(stage)]:
                self._bars.remove_task(self._tasks.pop(earlier))  # bars below the terminal's last line are not seen
            self._tasks[stage] = self._bars.add_task(_label(stage), total=None, count="")
        self._current = stage


def _label(stage: str) -> str:
    """Name a stage; "owner: stage" says whose it is."""
    owner, colon, plain = stage.rpartition(": ")
    return f"{owner}{colon}{_LABELS.get(plain, plain.replace('_', ' '))}"


def _owner(stage: str) -> str:
    return stage.rpartition(": ")[0]
