"""What a sweep found, as records and as the JSON of its folder.

```
FOLDER/sweep.json         everything below
FOLDER/scores/KEY.json    one configuration: every metric of every query; there as soon as it is measured, so that a
                          sweep that was cut short goes on from what it has
```

sweep.json is one object. Names of configurations are unique in it; `main` is the one around which is swept.

| field | holds |
|---|---|
| `schema` | 1 |
| `dataset` | name of the data set |
| `subset` | null, or `{"queries", "queries_of", "documents", "documents_of", "seed"}`: how many were kept of how many |
| `metric` | the metric by which values are chosen and compared, such as `ndcg@10` |
| `grid` | `one-factor`: main, and what differs from it in one axis; `full`: every combination |
| `encoder`, `fingerprint`, `chunking` | of main; `encoder.layers` are the re-routing layers it has |
| `queries` | id -> text, those that count |
| `counts` | documents, documents_empty, documents_failed, chunks, and what else the data set held |
| `folds`, `repeats`, `seed` | of the nested choice |
| `configurations` | list, main first, see CONFIGURATION |
| `axes` | list of AXIS, in the order bias, window, pooling, prompt, transform; only those that were swept |
| `overall` | NESTED over all configurations; null where there is but one |
| `standing` | STANDING of TwoNN's window; null where no windows were swept or TwoNN had too few texts |
| `profile` | `DimensionProfile.to_dict()` of the chunks; null where they were too few, or nothing asks for it |
| `warnings` | list of sentences |
| `seconds` | stage -> seconds, of this run alone |
| `versions`, `command` | package -> version; what it was made with, as a shell takes it |
| `interval`, `comparison` | how intervals and p values were made |

ESTIMATE is `{"mean", "low", "high"}`, a mean over queries with its 95 % interval. DIFFERENCE is an ESTIMATE of paired
differences and `p_value`, of the paired randomisation test.

CONFIGURATION: `name` (`main`, `bias=2`, `window=1`, `transform=center`; in a full grid such words joined by blanks);
`values` (axis -> label, of all five axes); `layers` (list, [] without re-routing); `prefix_bias` (number); `pooling`;
`query_template`; `document_template`; `transform` (null or what was asked for); `dimension` (numbers per vector);
`metrics` (metric -> ESTIMATE); `tokens` and `truncated` (that went through the model, chunks and queries of which
something was cut); `seconds` (of encoding, in the run that measured it; 0 where another configuration's vectors
served); `scores` (its file).

AXIS: `axis`; `points`, list of POINT in the order swept; `main`, `best` (labels; the best in hindsight); `nested`, a
NESTED. POINT: `name` of its configuration; `label`; `value` (of bias the number, of window the list of layers with []
for no re-routing, of pooling its name, of prompt `{"query", "document"}`, of transform null or an object); `estimate`
(ESTIMATE of the metric); `difference` (DIFFERENCE from main, zeros for main itself); `p_corrected` (by Holm over the
axis).

NESTED is what choosing on some queries and scoring on others gives: `estimate`; `difference` (DIFFERENCE from main);
`optimism` (mean of the best in hindsight less `estimate.mean`); `chosen` (label, in `overall` name -> in how many of
the folds x repeats choices it was chosen).

STANDING: `layers`, `name`, `label` of TwoNN's window; `windows` (measured, no re-routing not among them); `rank` (1 is
best), `rank_low`, `rank_high` (95 %, bootstrap over queries); `percentile` (share of the other windows that it beats,
ties half, 0..100); `best` (label in hindsight); `to_best`, `to_none`, `to_average`, `to_nested` (DIFFERENCE of TwoNN's
window less the best in hindsight, no re-routing or null, the mean of all windows, the nested choice among windows).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipelines.errors import JSON
from pipelines.evaluation.statistics import Estimate

Axis: TypeAlias = Literal["bias", "window", "pooling", "prompt", "transform"]
Grid: TypeAlias = Literal["one-factor", "full"]

AXES: tuple[Axis, ...] = ("bias", "window", "pooling", "prompt", "transform")
MAIN = "main"
NO_REROUTING = "none"
"""Label of the window without layers."""


@dataclass(frozen=True, slots=True)
class Subset:
    """How much of a data set was kept; judged documents always are.

    Attributes:
        queries: Kept.
        queries_of: That count in the whole.
        documents: Kept.
        documents_of: In the whole corpus.
        seed: Of the draw.
    """

    queries: int
    queries_of: int
    documents: int
    documents_of: int
    seed: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of paired differences.

    Attributes:
        mean: Over the queries.
        low: Lower end of its interval.
        high: Upper end.
        p_value: Of the paired randomisation test.
    """

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One configuration and what it scored.

    Attributes:
        name: Unique in its sweep.
        values: Axis -> label, of all axes.
        layers: Re-routing layers, none without re-routing.
        prefix_bias: A number.
        pooling: Its name.
        query_template: Prompt of queries.
        document_template: Prompt of documents.
        transform: What was asked for, or None.
        dimension: Numbers per vector.
        estimates: Metric -> mean with its interval.
        per_query: Query id -> metric -> value.
        tokens: That went through the model, documents and queries.
        truncated: Chunks and queries of which something was cut.
        seconds: Of encoding; 0 where another configuration's vectors served.
        scores: File of the per-query values, relative to the sweep's folder.
    """

    name: str
    values: Mapping[Axis, str]
    layers: tuple[int, ...]
    prefix_bias: float
    pooling: str
    query_template: str
    document_template: str
    transform: Mapping[str, JSON] | None
    dimension: int
    estimates: Mapping[str, Estimate]
    per_query: Mapping[str, Mapping[str, float]]
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    scores: str = ""


@dataclass(frozen=True, slots=True)
class Nested:
    """What choosing on some queries and scoring on the others gives.

    Attributes:
        estimate: Mean over the queries, each scored by what was chosen without it.
        difference: The same less main.
        optimism: Mean of the best in hindsight less `estimate.mean`.
        chosen: Label -> in how many choices it was chosen, most often first.
    """

    estimate: Estimate
    difference: Difference
    optimism: float
    chosen: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Point:
    """One value of an axis, everything else as in main.

    Attributes:
        name: Of its configuration.
        label: Of the value.
        value: Itself.
        estimate: Mean of the sweep's metric.
        difference: From main.
        p_corrected: By Holm over the axis.
    """

    name: str
    label: str
    value: JSON
    estimate: Estimate
    difference: Difference
    p_corrected: float


@dataclass(frozen=True, slots=True)
class AxisResult:
    """One axis.

    Attributes:
        axis: Its name.
        main: Label of main's value.
        best: Label of the best value in hindsight.
        points: In the order swept.
        nested: What choosing among them is worth.
    """

    axis: Axis
    main: str
    best: str
    points: tuple[Point, ...]
    nested: Nested


@dataclass(frozen=True, slots=True)
class Standing:
    """TwoNN's window among all windows.

    Attributes:
        layers: Of it.
        name: Of its configuration.
        label: Of it.
        windows: Measured, no re-routing not among them.
        rank: 1 is best.
        rank_low: Least rank of the interval.
        rank_high: Greatest.
        percentile: Share of the other windows that it beats, ties half, 0..100.
        best: Label of the best in hindsight.
        to_best: TwoNN's less the best in hindsight.
        to_none: TwoNN's less no re-routing, None where that was not measured.
        to_average: TwoNN's less the mean of all windows: what a window drawn at random would score.
        to_nested: TwoNN's less the nested choice among windows.
    """

    layers: tuple[int, ...]
    name: str
    label: str
    windows: int
    rank: int
    rank_low: int
    rank_high: int
    percentile: float
    best: str
    to_best: Difference
    to_none: Difference | None
    to_average: Difference
    to_nested: Difference


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Everything that sweep.json holds; the fields mean what the module's table says."""

    dataset: str
    subset: Subset | None
    metric: str
    grid: Grid
    encoder: Mapping[str, JSON]
    fingerprint: str
    chunking: Mapping[str, JSON]
    queries: Mapping[str, str]
    counts: Mapping[str, JSON]
    folds: int
    repeats: int
    seed: int
    configurations: tuple[Measured, ...]
    axes: tuple[AxisResult, ...]
    overall: Nested | None
    standing: Standing | None
    profile: Mapping[str, JSON] | None
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def main(self) -> Measured:
        """The configuration around which is swept."""
        return self.configurations[0]

    @property
    def title(self) -> str:
        """The data set's name, and that it is a subset where it is one."""
        if self.subset is None:
            return self.dataset
        kept = self.subset
        return (
            f"{self.dataset}, a subset ({kept.queries:,} of {kept.queries_of:,} queries, "
            f"{kept.documents:,} of {kept.documents_of:,} documents)"
        )

    def axis(self, axis: Axis) -> AxisResult | None:
        """Return the result of an axis, None where it was not swept."""
        return next((one for one in self.axes if one.axis == axis), None)
