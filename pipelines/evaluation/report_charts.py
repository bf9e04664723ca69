"""The report's drawings: estimates in rows, two systems query by query, means by length, values along an axis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pipelines.evaluation.report_svg import BESIDE, INK, MAIN, MARK, MUTED, OTHER, PAPER, WIDTH, draw_svg
from pipelines.evaluation.report_words import shown, signed
from pipelines.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipelines.errors import JSON

_ROW, _FRAME = 21.0, 34.0
_LABEL = 24
"""Characters of a row's name."""


@dataclass(frozen=True, slots=True)
class Row:
    """A named estimate.

    Attributes:
        label: Its name.
        estimate: Mean and interval.
        marked: Drawn in the colour that stands out.
    """

    label: str
    estimate: Estimate
    marked: bool = False


def bar_chart(name: str, title: str, rows: Sequence[Row]) -> str:
    """Draw means from 0 with their intervals, a row each, first on top."""

    def draw(figure: Figure) -> None:
        axes = _rows(figure, [row.label for row in rows])
        colours = [MAIN if row.marked else OTHER for row in rows]
        axes.barh(range(len(rows)), [row.estimate.mean for row in rows], height=0.66, color=colours)
        _intervals(axes, rows, PAPER, 3.4)
        _intervals(axes, rows, INK)
        largest = max(row.estimate.high for row in rows) or 1.0
        for place, row in enumerate(rows):
            end = row.estimate.high + 0.02 * largest
            axes.text(end, place, f"{row.estimate.mean:.3f}", va="center", weight="bold" if row.marked else "normal")
        axes.set_xlim(0, 1.2 * largest)

    return draw_svg(name, title, _FRAME + _ROW * len(rows), draw)


def dot_chart(name: str, title: str, rows: Sequence[Row], *, line: float, xlabel: str, sign: str = "") -> str:
    """Draw estimates as dots with their intervals beside a line, a row each, first on top.

    Args:
        name: As `draw_svg`.
        title: As `draw_svg`.
        rows: From top to bottom.
        line: What they are set against.
        xlabel: What they are.
        sign: "+" shows the sign of every number.
    """

    def draw(figure: Figure) -> None:
        axes = _rows(figure, [row.label for row in rows])
        axes.axvline(line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, row in enumerate(rows):
            colour = MAIN if row.marked else OTHER
            axes.hlines(place, row.estimate.low, row.estimate.high, color=colour, linewidth=1.5)
            axes.plot(row.estimate.mean, place, "o", color=colour, markersize=6)
        low = min(line, *(row.estimate.low for row in rows))
        high = max(line, *(row.estimate.high for row in rows))
        span = high - low or 1.0
        for place, row in enumerate(rows):
            axes.text(high + 0.05 * span, place, signed(row.estimate.mean, 3, sign), va="center")
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
        axes.set_xlim(low - 0.05 * span, high + 0.32 * span)
        axes.set_xlabel(_short(xlabel, 60))

    return draw_svg(name, title, _FRAME + 18 + _ROW * len(rows), draw)


def scatter_chart(name: str, title: str, pairs: Sequence[tuple[float, float]], labels: tuple[str, str]) -> str:
    """Draw a point per query, larger where several fall together.

    Args:
        name: As `draw_svg`.
        title: As `draw_svg`.
        pairs: Values in 0..1, across and upwards.
        labels: What they are.
    """
    places = Counter((round(across, 3), round(upwards, 3)) for across, upwards in pairs)
    across, upwards = zip(*sorted(places), strict=True)
    sizes = [26.0 * math.sqrt(places[place]) for place in sorted(places)]
    colours = [OTHER if high == low else MAIN if high > low else BESIDE for low, high in sorted(places)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.scatter(across, upwards, s=sizes, c=colours, edgecolors=PAPER, linewidths=0.6, alpha=0.85, clip_on=False)
        axes.set(xlabel=_short(labels[0], 44), ylabel=_short(labels[1], 44), xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_aspect("equal")
        axes.grid(visible=True)

    return draw_svg(name, title, WIDTH - 10, draw)


def bucket_chart(
    name: str, title: str, labels: Sequence[str], lines: Mapping[str, Sequence[Estimate]], words: tuple[str, str]
) -> str:
    """Draw the means of at most two systems by bucket, with their intervals.

    Args:
        name: As `draw_svg`.
        title: As `draw_svg`.
        labels: Of the buckets.
        lines: System -> an estimate per bucket; the system asked about first.
        words: Names of the two axes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shift = 0.09 if len(lines) > 1 else 0.0
        for (label, estimates), colour, marker, offset in zip(
            lines.items(), (MAIN, BESIDE), "os", (-shift, shift), strict=False
        ):
            at = [place + offset for place in range(len(estimates))]
            axes.vlines(
                at, [one.low for one in estimates], [one.high for one in estimates], color=colour, linewidth=1.5
            )
            axes.plot(at, [one.mean for one in estimates], marker, color=colour, label=_short(label))
        axes.set(xlabel=words[0], ylabel=words[1], xlim=(-0.5, len(labels) - 0.5))
        axes.set_ylim(0, 1.05 * max(one.high for estimates in lines.values() for one in estimates) or 1.0)
        axes.set_xticks(range(len(labels)), labels)
        axes.grid(visible=True, axis="y")
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=2, handletextpad=0.3)

    return draw_svg(name, title, 230.0, draw)


def profile_chart(name: str, title: str, profile: Mapping[str, JSON]) -> str:
    """Draw the intrinsic dimension by layer from `DimensionProfile.to_dict()`, the layers chosen marked."""
    dimensions = cast("list[float]", profile["dimensions"])
    chosen, first = cast("list[int]", profile["layers"]), cast("int", profile.get("first_candidate", 0))
    intervals = cast("list[list[float]]", profile.get("intervals") or [[one, one] for one in dimensions])
    low, high = zip(*intervals, strict=True)
    depth = range(len(dimensions))

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        window = (chosen[0] - 0.5, chosen[-1] + 0.5)
        axes.axvspan(*window, facecolor=(MARK, 0.35), edgecolor=MARK, linewidth=1, label="re-routed")
        if first:
            axes.axvspan(-0.5, first - 0.5, color=OTHER, alpha=0.18, linewidth=0, label="excluded")
        axes.fill_between(depth, low, high, color=MAIN, alpha=0.25, linewidth=0, label="95 %")
        axes.plot(depth, dimensions, marker="o", color=MAIN)
        axes.set(xlabel="layer", ylabel="intrinsic dimension", xlim=(-0.5, len(dimensions) - 0.5), ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=3, handlelength=1.2, handletextpad=0.4)

    return draw_svg(name, title, 230.0, draw)


def line_chart(name: str, title: str, places: Sequence[float], rows: Sequence[Row], words: tuple[str, str]) -> str:
    """Draw estimates along a numbered axis, the value of the configuration asked about marked.

    Args:
        name: As `draw_svg`.
        title: As `draw_svg`.
        places: Along the axis.
        rows: As many.
        words: Names of the two axes.
    """
    found = sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])
    across = [place for place, _ in found]
    estimates = [row.estimate for _, row in found]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        low, high = [one.low for one in estimates], [one.high for one in estimates]
        axes.fill_between(across, low, high, color=MAIN, alpha=0.2, linewidth=0, label="95 %")
        axes.plot(across, [one.mean for one in estimates], marker="o", color=MAIN)
        for place, row in found:
            if row.marked:
                axes.plot(place, row.estimate.mean, "s", color=BESIDE, markersize=8, label=_short(f"main: {row.label}"))
        axes.set(xlabel=words[0], ylabel=_short(words[1]))
        axes.grid(visible=True, axis="y")
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.2, handletextpad=0.4)

    return draw_svg(name, title, 230.0, draw)


def window_chart(name: str, title: str, rows: Sequence[Row], none: Estimate | None, metric: str) -> str:
    """Draw the estimate of every window along the depth, the one that TwoNN takes marked, no re-routing as a band.

    Args:
        name: As `draw_svg`.
        title: As `draw_svg`.
        rows: A window each, labelled by its layers, in the order of the depth.
        none: Without re-routing; None where that was not measured.
        metric: What is estimated.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if none is not None:
            axes.axhspan(none.low, none.high, color=OTHER, alpha=0.15, linewidth=0)
            axes.axhline(none.mean, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="no re-routing")
        for place, row in enumerate(rows):
            colour, marker = (BESIDE, "s") if row.marked else (MAIN, "o")
            axes.vlines(place, row.estimate.low, row.estimate.high, color=colour, linewidth=1.5)
            axes.plot(place, row.estimate.mean, marker, color=colour, label="TwoNN" if row.marked else None)
        step = math.ceil(len(rows) / 9)
        axes.set_xticks(range(0, len(rows), step), [_short(row.label, 8) for row in rows[::step]])
        axes.set(xlabel="layers re-routed", ylabel=_short(metric), xlim=(-0.5, len(rows) - 0.5))
        axes.grid(visible=True, axis="y")
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.4, handletextpad=0.4)

    return draw_svg(name, title, 230.0, draw)


def _rows(figure: Figure, labels: Sequence[str]) -> Axes:
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.xaxis.grid(visible=True)
    axes.locator_params(axis="x", nbins=5)
    return axes


def _intervals(axes: Axes, rows: Sequence[Row], colour: str, width: float = 1.4) -> None:
    lows, highs = [row.estimate.low for row in rows], [row.estimate.high for row in rows]
    axes.hlines(range(len(rows)), lows, highs, color=colour, linewidth=width)


def _short(text: str, length: int = _LABEL) -> str:
    return shown(text, length)
