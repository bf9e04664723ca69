"""Configurations that were measured -> axes, the nested choice, the standing of TwoNN's window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kvembed.transforms import asked_of
from pipelines.evaluation.measures import METRICS
from pipelines.evaluation.sweep_choice import Folds, corrected, differences, nested, standing, values_of
from pipelines.evaluation.sweep_grid import window_label
from pipelines.evaluation.sweep_records import NO_REROUTING, Axis, AxisResult, Measured, Nested, Point, Standing
from pipelines.evaluation.systems import estimates_of

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation.sweep_files import Scored
    from pipelines.evaluation.sweep_grid import Configuration, SweepGrid, Value


@dataclass(frozen=True, slots=True)
class Summary:
    """What the configurations come to; the fields mean what they do in `SweepResult`."""

    axes: tuple[AxisResult, ...]
    overall: Nested | None
    standing: Standing | None


def measured(configuration: Configuration, scored: Scored, scores: str) -> Measured:
    """Put a configuration and what it scored together.

    Args:
        configuration: Of the grid.
        scored: Its scores.
        scores: Their file.
    """
    config = configuration.config
    asked = asked_of(config.transform)
    return Measured(
        name=configuration.name,
        values=dict(configuration.values),
        layers=cast("tuple[int, ...]", config.layers),
        prefix_bias=config.prefix_bias,
        pooling=config.pooling.value,
        query_template=config.query_template,
        document_template=config.document_template,
        transform=None if asked is None else cast("Mapping[str, JSON]", asked.to_dict()),
        dimension=scored.dimension,
        estimates=estimates_of(scored.per_query, METRICS),
        per_query=scored.per_query,
        tokens=scored.tokens,
        truncated=scored.truncated,
        seconds=scored.seconds,
        scores=scores,
    )


def configuration_record(configuration: Configuration) -> dict[str, JSON]:
    """Say in a file of scores what they are of."""
    fields = cast("dict[str, JSON]", configuration.config.to_dict())
    named = (
        "layers",
        "prefix_bias",
        "pooling",
        "query_template",
        "document_template",
        "transform",
        "max_length",
        "dtype",
    )
    return {name: fields[name] for name in named}


def summed_up(
    grid: SweepGrid,
    configurations: Sequence[Measured],
    metric: str,
    folds: Folds,
    window: tuple[int, ...] | None,
) -> Summary:
    """Compare values along each axis, choose nested, and find TwoNN's window among all.

    Args:
        grid: What was measured.
        configurations: All of it, main first.
        metric: By which.
        folds: Part the queries.
        window: TwoNN's; None where it is not known.
    """
    by_name = {one.name: one for one in configurations}
    axes = [_axis(axis, values, grid, by_name, metric, folds) for axis, values in grid.axes.items() if len(values) > 1]
    names = [one.name for one in configurations]
    overall = nested(values_of(configurations, metric), names, folds, 0) if len(names) > 1 else None
    return Summary(tuple(axes), overall, _standing(grid, by_name, metric, folds, window))


def _axis(
    axis: Axis,
    values: Sequence[Value],
    grid: SweepGrid,
    by_name: Mapping[str, Measured],
    metric: str,
    folds: Folds,
) -> AxisResult:
    found = [by_name[grid.at(axis, value).name] for value in values]
    labels = [value.label for value in values]
    main = labels.index(grid.main.values[axis])
    table = values_of(found, metric)
    apart = differences(table - table[:, [main]])
    points = [
        Point(one.name, value.label, value.value, one.estimates[metric], difference, p_value)
        for one, value, difference, p_value in zip(found, values, apart, corrected(apart, main), strict=True)
    ]
    means = table.mean(axis=0)
    best = main if means[main] == means.max() else int(means.argmax())
    return AxisResult(axis, labels[main], labels[best], tuple(points), nested(table, labels, folds, main))


def _standing(
    grid: SweepGrid, by_name: Mapping[str, Measured], metric: str, folds: Folds, window: tuple[int, ...] | None
) -> Standing | None:
    if window is None or "window" not in grid.axes:
        return None
    windows = {value.label: by_name[grid.at("window", value).name] for value in grid.axes["window"]}
    none = windows.pop(NO_REROUTING, None)
    return standing(windows, window_label(window), none, metric, folds)
