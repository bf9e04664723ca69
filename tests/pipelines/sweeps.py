"""A small sweep made by hand."""

from __future__ import annotations

from pipelines.evaluation.statistics import Estimate
from pipelines.evaluation.sweep_records import (
    AXES,
    AxisResult,
    Difference,
    Measured,
    Nested,
    Point,
    Standing,
    Subset,
    SweepResult,
)

ZERO = Difference(0.0, 0.0, 0.0, 1.0)


def measured(name: str, mean: float, **values: str) -> Measured:
    """A configuration of two queries that score alike."""
    labels = {"bias": "1", "window": "2", "pooling": "hybrid", "prompt": "compression", "transform": "none"}
    return Measured(
        name=name,
        values={axis: values.get(axis, labels[axis]) for axis in AXES},
        layers=(2,),
        prefix_bias=1.0,
        pooling="hybrid",
        query_template="Query: {text}",
        document_template="Context: {text}",
        transform=None,
        dimension=8,
        estimates={"ndcg@10": Estimate(mean, mean - 0.1, mean + 0.1)},
        per_query={"q/1": {"ndcg@10": mean}, "q/2": {"ndcg@10": mean}},
        tokens=100,
        scores=f"scores/{name}.json",
    )


def small_sweep() -> SweepResult:
    """Two biases and two windows of a subset."""
    configurations = (measured("main", 0.5), measured("bias=2", 0.6, bias="2"), measured("window=1", 0.4, window="1"))
    up = Difference(0.1, 0.1, 0.1, 0.5)
    nested = Nested(Estimate(0.55, 0.5, 0.6), up, 0.05, {"2": 7, "1": 3})

    def point(name: str, label: str, value: object, mean: float, difference: Difference) -> Point:
        return Point(name, label, value, Estimate(mean, mean - 0.1, mean + 0.1), difference, 1.0)  # type: ignore[arg-type]

    bias = (point("main", "1", 1.0, 0.5, ZERO), point("bias=2", "2", 2.0, 0.6, up))
    window = (point("window=1", "1", [1], 0.4, up), point("main", "2", [2], 0.5, ZERO))
    return SweepResult(
        dataset="small",
        subset=Subset(2, 4, 8, 80, 0),
        metric="ndcg@10",
        grid="one-factor",
        encoder={"model": "fake/hashed-words", "layers": [2]},
        fingerprint="f" * 64,
        chunking={"max_tokens": 256},
        queries={"q/1": "What?", "q/2": "Wo ist das – wo?"},
        counts={"documents": 8, "chunks": 9},
        folds=5,
        repeats=2,
        seed=0,
        configurations=configurations,
        axes=(AxisResult("bias", "1", "2", bias, nested), AxisResult("window", "2", "2", window, nested)),
        overall=nested,
        standing=Standing((2,), "main", "2", 2, 1, 1, 2, 100.0, "2", ZERO, None, up, ZERO),
        profile={"dimensions": [3.0, 2.0], "layers": [1]},
        warnings=("few queries",),
        seconds={"encode": 1.5},
        versions={"python": "3.11"},
    )
