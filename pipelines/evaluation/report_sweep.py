"""A sweep as a section of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipelines.evaluation import report_charts as charts
from pipelines.evaluation.report_charts import Row
from pipelines.evaluation.report_profile import profile_block
from pipelines.evaluation.report_records import Block, Chart, Section, Table
from pipelines.evaluation.report_words import interval, mean_and_interval, number, p_value, plain, signed, spoken
from pipelines.evaluation.sweep_records import NO_REROUTING

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation.sweep_records import Axis, AxisResult, Difference, Nested, Standing, SweepResult

_TITLES: Mapping[Axis, str] = {
    "bias": "Prefix bias",
    "window": "Layer windows",
    "pooling": "Pooling",
    "prompt": "Prompts",
    "transform": "Transforms",
}


def sweep_section(name: str, sweep: SweepResult) -> Section:
    """Show a sweep axis by axis, with what choosing is worth on queries that were not chosen on."""
    blocks = [_axis_block(name, sweep, axis) for axis in sweep.axes]
    if sweep.profile is not None:
        blocks.append(profile_block(f"{name}-profile", sweep.profile))
    return Section(
        name=name,
        title=f"Sweep of {sweep.title}",
        facts=tuple(_facts(sweep)),
        commands=tuple(sweep.command.splitlines()),
        blocks=(*blocks, _every(sweep), _configuration(sweep)),
    )


def _facts(sweep: SweepResult) -> Iterator[tuple[str, str]]:
    yield "metric", sweep.metric
    yield "queries", f"{len(sweep.queries):,}"
    if sweep.subset is not None:
        yield "subset drawn with seed", str(sweep.subset.seed)
    for key in ("documents", "chunks"):
        if key in sweep.counts:
            yield key, f"{sweep.counts[key]:,}"
    yield "configurations", f"{len(sweep.configurations):,}, {sweep.grid}"
    yield "choice", f"{sweep.folds} folds, {sweep.repeats} times, seed {sweep.seed}"
    yield from (("warning", warning) for warning in sweep.warnings)


def _axis_block(name: str, sweep: SweepResult, axis: AxisResult) -> Block:
    title = _TITLES[axis.axis]
    words = f"{sweep.metric} by {title.lower()}: {spoken((point.label, point.estimate) for point in axis.points)}"
    svg = _drawn(f"{name}-{axis.axis}", words, sweep, axis)
    notes = [_nested_words(axis.nested, sweep.metric, axis.best)]
    if axis.axis == "window" and sweep.standing is not None:
        notes.insert(0, _standing_words(sweep.standing, sweep.metric))
    tables = (
        _axis_table(sweep, axis),
        *([_standing_table(sweep.standing)] if axis.axis == "window" and sweep.standing else []),
    )
    return Block(
        title,
        tuple(notes),
        (Chart(svg, f"{sweep.metric} and its 95 % intervals; main is {axis.main}. The table has paired differences."),),
        folded=tables,
    )


def _drawn(name: str, words: str, sweep: SweepResult, axis: AxisResult) -> str:
    """Draw numbers along a line, layers along the depth, and names in rows."""
    rows = [Row(point.label, point.estimate, point.label == axis.main) for point in axis.points]
    if axis.axis == "bias" and len(rows) > 1:
        places = [float(str(point.value)) for point in axis.points]
        return charts.line_chart(name, words, places, rows, ("prefix bias", sweep.metric))
    windows = [row for row in rows if row.label != NO_REROUTING]
    if axis.axis == "window" and len(windows) > 1:
        chosen = sweep.standing.label if sweep.standing is not None else axis.main
        marked = [Row(row.label, row.estimate, row.label == chosen) for row in windows]
        none = next((row.estimate for row in rows if row.label == NO_REROUTING), None)
        return charts.window_chart(name, words, marked, none, sweep.metric)
    main = next(row.estimate.mean for row in rows if row.marked)
    return charts.dot_chart(name, words, rows, line=main, xlabel=sweep.metric)


def _standing_words(standing: Standing, metric: str) -> str:
    return (
        f"TwoNN's window {standing.label} is number {standing.rank} of {standing.windows} by {metric} "
        f"(95 %: {standing.rank_low} to {standing.rank_high}) and beats {standing.percentile:.0f} % of the others."
    )


def _nested_words(nested: Nested, metric: str, best: str) -> str:
    chosen = ", ".join(f"{label} ({times:,} times)" for label, times in nested.chosen.items())
    low_high = interval(nested.difference.low, nested.difference.high)
    return (
        f"Best in hindsight: {best}. Chosen on some queries and scored on others, the choice is worth "
        f"{signed(nested.difference.mean)} {metric} over main ({low_high}, p {p_value(nested.difference.p_value)}); "
        f"hindsight flatters by {signed(nested.optimism, sign='')}. Chosen: {chosen}."
    )


def _axis_table(sweep: SweepResult, axis: AxisResult) -> Table:
    rows = tuple(
        (
            f"{point.label}{' (main)' if point.label == axis.main else ''}",
            mean_and_interval(point.estimate),
            *_difference(point.difference),
            p_value(point.p_corrected),
        )
        for point in axis.points
    )
    head = (_TITLES[axis.axis].lower(), sweep.metric, "less main", "p", "p, Holm")
    return Table(f"{sweep.metric} by {_TITLES[axis.axis].lower()}", head, rows, frozenset({0}))


def _standing_table(standing: Standing) -> Table:
    differences = {
        f"the best in hindsight, {standing.best}": standing.to_best,
        "no re-routing": standing.to_none,
        "the mean of all windows": standing.to_average,
        "the window chosen on other queries": standing.to_nested,
    }
    rows = tuple((name, *_difference(found)) for name, found in differences.items() if found is not None)
    return Table("TwoNN's window less …", ("", "difference", "p"), rows, frozenset({0}))


def _difference(difference: Difference) -> tuple[str, str]:
    paired = f"{signed(difference.mean)}\n{interval(difference.low, difference.high)}"
    return paired, p_value(difference.p_value)


def _every(sweep: SweepResult) -> Block:
    rows = tuple(
        (
            one.name,
            mean_and_interval(one.estimates[sweep.metric]),
            number(one.dimension),
            number(one.tokens),
            number(one.truncated),
            number(one.seconds or None, ".2f"),
        )
        for one in sweep.configurations
    )
    head = ("configuration", sweep.metric, "numbers per vector", "tokens", "truncated", "seconds")
    table = Table("Every configuration", head, rows, frozenset({0}))
    notes = ("A dash: another configuration's vectors served.",)
    if sweep.overall is None:
        return Block("Every configuration", notes, folded=(table,))
    best = max(sweep.configurations, key=lambda one: one.estimates[sweep.metric].mean)
    return Block(
        "Every configuration", (_nested_words(sweep.overall, sweep.metric, best.name), *notes), folded=(table,)
    )


def _configuration(sweep: SweepResult) -> Block:
    fields: dict[str, JSON] = {**sweep.encoder, **{f"chunking.{key}": value for key, value in sweep.chunking.items()}}
    rows = [("fingerprint", sweep.fingerprint), *((key, plain(value)) for key, value in fields.items())]
    words = frozenset({0, 1})
    main = Table("main", ("field", "value"), tuple(rows), words)
    versions = Table("Versions", ("package", "version"), tuple(sweep.versions.items()), words)
    seconds = tuple((stage.replace("_", " "), f"{taken:.2f}") for stage, taken in sweep.seconds.items())
    return Block(
        "Configuration",
        folded=(main, versions, Table("Seconds of the last run", ("stage", "seconds"), seconds, frozenset({0}))),
    )
