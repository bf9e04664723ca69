"""What a sweep tries: values of five axes around one configuration.

By default one factor at a time: the cost is the sum of the axes' values, not their product (tens of configurations,
not thousands), each effect is read against the same configuration, and few enough values are chosen from that a few
hundred queries can tell them apart. Factors that act together are seen by the full grid alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, cast

from kvembed.config import EncoderConfig, Pooling
from kvembed.config_checks import PLACEHOLDER
from kvembed.methods import TRAITS, Method
from kvembed.transform_config import TransformConfig
from kvembed.transforms import asked_of
from pipelines.errors import TerminalError
from pipelines.evaluation.sweep_records import AXES, MAIN, NO_REROUTING, Axis, Grid

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.errors import JSON

BIASES = (-4.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0)
"""Added to the logit of the re-routed slot: from hardly seen to hardly anything else seen."""

_FIELDS: Mapping[Axis, tuple[str, ...]] = {
    "bias": ("prefix_bias",),
    "window": ("layers",),
    "pooling": ("pooling",),
    "prompt": ("query_template", "document_template"),
    "transform": ("transform",),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """Both prompts of a configuration; `{text}` stands in each once."""

    query: str
    document: str


PROMPTS: Mapping[str, Prompt] = {
    "compression": Prompt(
        *(TRAITS[Method.KV_REROUTING].template(name) for name in ("query_template", "document_template"))
    ),
    "none": Prompt(PLACEHOLDER, PLACEHOLDER),
    "role": Prompt("Query: {text}", "Context: {text}"),
    "ending": Prompt("{text} Compress the Query in one word:", "{text} Compress the Context in one word:"),
    "shared": Prompt("Text: {text} Compress the Text in one word:", "Text: {text} Compress the Text in one word:"),
    "one-word": Prompt('The question "{text}" in one word: "', 'The passage "{text}" in one word: "'),
}
"""Re-routing's own, and what is left of it when a part is taken away, or said otherwise."""


def default_transforms(dimension: int) -> tuple[TransformConfig | None, ...]:
    """Return the transforms tried where none is named.

    Args:
        dimension: E, numbers per vector.
    """
    return (
        None,
        TransformConfig(center=True),
        TransformConfig(filter_directions=min(8, dimension - 1)),
        TransformConfig(whiten=True),
        TransformConfig(whiten=True, shrinkage=0.9),
        TransformConfig(center=True, dimensions=max(1, dimension // 3)),
    )


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What is asked for; None takes the defaults, of which those that cannot be are left out with a warning."""

    axes: tuple[Axis, ...] = AXES
    grid: Grid = "one-factor"
    biases: tuple[float, ...] | None = None
    windows: tuple[tuple[int, ...], ...] | None = None
    """Windows themselves, () for no re-routing; None takes every start."""
    widths: tuple[int, ...] | None = None
    """Layers per window at every start; None takes the method's rule, floor(L / 10) + 1."""
    poolings: tuple[Pooling, ...] | None = None
    prompts: Mapping[str, Prompt] | None = None
    transforms: tuple[TransformConfig | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an axis.

    Attributes:
        label: Unique in its axis.
        value: As a record has it.
        fields: What it changes of an `EncoderConfig`.
    """

    label: str
    value: JSON
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Configuration:
    """One thing to measure.

    Attributes:
        name: Unique in the sweep.
        values: Axis -> label, of all axes.
        config: What is computed; its transform is what is asked for.
    """

    name: str
    values: Mapping[Axis, str]
    config: EncoderConfig


@dataclass(frozen=True, slots=True)
class SweepGrid:
    """Everything to measure, main first.

    Attributes:
        kind: Of it.
        axes: Axis -> values in the order swept, main's own among them; only axes that are swept.
        configurations: All of them.
    """

    kind: Grid
    axes: Mapping[Axis, tuple[Value, ...]]
    configurations: tuple[Configuration, ...]
    _by_values: Mapping[tuple[str, ...], Configuration] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_values", {tuple(one.values.values()): one for one in self.configurations})

    @property
    def main(self) -> Configuration:
        """The one around which is swept."""
        return self.configurations[0]

    def at(self, axis: Axis, value: Value) -> Configuration:
        """Return the configuration that has this value and is else as main."""
        return self._by_values[tuple({**self.main.values, axis: value.label}.values())]


def make_grid(main: EncoderConfig, axes: Mapping[Axis, Sequence[Value]], kind: Grid) -> SweepGrid:
    """Combine values.

    Args:
        main: Its layers are resolved.
        axes: Values wanted; main's own is put in where it is missing.
        kind: One factor at a time, or all combinations.
    """
    own = {axis: _own(main, axis, axes.get(axis, ())) for axis in AXES}
    swept = {axis: _with(own[axis], axis, axes[axis]) for axis in AXES if axis in axes}
    if kind == "full":
        rows = [dict(zip(swept, row, strict=True)) for row in product(*swept.values())]
    else:
        rows = [{axis: value} for axis, values in swept.items() for value in values]
    configurations = {MAIN: _configuration(main, own, {})}
    for row in rows:
        found = _configuration(main, own, row)
        configurations.setdefault(found.name, found)
    return SweepGrid(kind, swept, tuple(configurations.values()))


def bias_values(biases: Sequence[float]) -> list[Value]:
    """Return the values of the axis "bias", ascending."""
    return [Value(_short(bias), bias, {"prefix_bias": bias}) for bias in sorted(set(biases))]


def window_values(windows: Sequence[tuple[int, ...]]) -> list[Value]:
    """Return the values of the axis "window", each once, in the order given."""
    return [Value(window_label(layers), list(layers), {"layers": layers}) for layers in dict.fromkeys(windows)]


def pooling_values(poolings: Sequence[Pooling]) -> list[Value]:
    """Return the values of the axis "pooling"."""
    return [Value(pooling.value, pooling.value, {"pooling": pooling}) for pooling in dict.fromkeys(poolings)]


def prompt_values(prompts: Mapping[str, Prompt]) -> list[Value]:
    """Return the values of the axis "prompt"."""
    return [
        Value(
            name,
            {"query": prompt.query, "document": prompt.document},
            {"query_template": prompt.query, "document_template": prompt.document},
        )
        for name, prompt in prompts.items()
    ]


def transform_values(transforms: Sequence[TransformConfig | None]) -> list[Value]:
    """Return the values of the axis "transform"."""
    return [
        Value(transform_words(asked), None if asked is None else asked.to_dict(), {"transform": asked})
        for asked in dict.fromkeys(transforms)
    ]


def every_window(encoder: KVEncoder, widths: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Return no re-routing and a window at every start, of each width; what cannot re-route is left out of windows.

    Args:
        encoder: Knows its layers.
        widths: Layers per window; None takes the method's rule. At the depth's end windows are shorter, as by the rule.

    Raises:
        TerminalError: a width that the model does not have.
    """
    depth = encoder.num_layers
    for width in widths or ():
        if not 1 <= width <= depth:
            raise TerminalError(f"window width {width} is outside 1..{depth} (model has {depth} layers); give another")
    spans = [(start, start + width) for width in widths or (depth // 10 + 1,) for start in range(depth)]
    windows = [tuple(layer for layer in encoder.reroutable_layers if start <= layer < stop) for start, stop in spans]
    return [(), *(window for window in dict.fromkeys(windows) if window)]


def window_label(layers: Sequence[int]) -> str:
    """Name a window: "none", "3", "3-5" or, with gaps, "3,7"."""
    if not layers:
        return NO_REROUTING
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(str(layer) for layer in layers)


def transform_words(asked: TransformConfig | None) -> str:
    """Name a transform as `--transform` takes it."""
    if asked is None:
        return "none"
    words = ["whiten"] if asked.whiten else ["center"] if asked.center else []
    words += [f"filter={asked.filter_directions}"] if asked.filter_directions else []
    words += [f"shrinkage={asked.shrinkage:g}"] if asked.shrinkage is not None else []
    words += [f"dimensions={asked.dimensions}"] if asked.dimensions is not None else []
    return ",".join(words)


def _own(main: EncoderConfig, axis: Axis, values: Sequence[Value]) -> Value:
    """Return main's value of an axis, by the name it has among those that are swept or known."""
    known = [*values, *(prompt_values(PROMPTS) if axis == "prompt" else [])]
    fields = {name: _plain(main, name) for name in _FIELDS[axis]}
    if (found := next((one for one in known if dict(one.fields) == fields), None)) is not None:
        return found
    made: dict[Axis, list[Value]] = {
        "bias": bias_values([main.prefix_bias]),
        "window": window_values([cast("tuple[int, ...]", main.layers)]),
        "pooling": pooling_values([main.pooling]),
        "prompt": prompt_values({MAIN: Prompt(main.query_template, main.document_template)}),
        "transform": transform_values([asked_of(main.transform)]),
    }
    return made[axis][0]


def _short(number: float) -> str:
    return short if float(short := f"{number:g}") == number else repr(number)


def _plain(main: EncoderConfig, name: str) -> object:
    return asked_of(main.transform) if name == "transform" else getattr(main, name)


def _with(own: Value, axis: Axis, values: Sequence[Value]) -> tuple[Value, ...]:
    if own in values:
        return tuple(values)
    everything = [own, *values]
    if axis == "bias":
        everything.sort(key=lambda one: cast("float", one.value))
    return tuple(everything)


def _configuration(main: EncoderConfig, own: Mapping[Axis, Value], row: Mapping[Axis, Value]) -> Configuration:
    values = {**own, **row}
    changed = {axis: value for axis, value in values.items() if value != own[axis]}
    fields = {name: content for value in changed.values() for name, content in value.fields.items()}
    return Configuration(
        name=" ".join(f"{axis}={value.label}" for axis, value in changed.items()) or MAIN,
        values={axis: value.label for axis, value in values.items()},
        config=replace(main, **{"transform": asked_of(main.transform), **fields}),  # type: ignore[arg-type]
    )
