"""What a metric must reach, for continuous integration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.measures import METRICS


def parse_thresholds(texts: Sequence[str], metrics: Sequence[str] = METRICS) -> dict[str, float]:
    """Read `metric=value`, several in one text separated by commas.

    Args:
        texts: As given on a command line.
        metrics: Those there are.

    Returns:
        Metric -> value in 0..1; of a metric given twice the last.

    Raises:
        ValueError: no such metric, naming those there are, or no such value.
    """
    thresholds = {}
    for text in (part.strip() for given in texts for part in given.split(",")):
        metric, _, value = text.partition("=")
        if metric.strip().lower() not in metrics:
            raise ValueError(f"{text!r} names no metric; give metric=value, of {', '.join(metrics)}")
        thresholds[metric.strip().lower()] = _share(value, text, metrics[0])
    return thresholds


def too_low(metrics: Mapping[str, float], thresholds: Mapping[str, float]) -> list[str]:
    """Return a line for every mean below its threshold."""
    return [
        f"{metric} is {metrics[metric]:.4f}, below {least:g}"
        for metric, least in thresholds.items()
        if metrics[metric] < least
    ]


def dropped(comparison: Comparison, allowed: Mapping[str, float]) -> list[str]:
    """Return a line for every metric of the second system that is further below the first's than allowed."""
    return [
        f"{one.metric} dropped by {one.first - one.second:.4f}, from {one.first:.4f} to {one.second:.4f}; "
        f"{allowed[one.metric]:g} is allowed"
        for one in comparison.metrics
        if one.metric in allowed and one.first - one.second > allowed[one.metric]
    ]


def _share(value: str, text: str, example: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{text!r} gives no value from 0 to 1; give metric=value, such as {example}=0.4")
    return number
