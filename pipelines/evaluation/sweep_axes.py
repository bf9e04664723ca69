"""Which values a sweep tries on this model and this corpus: those asked for, or the defaults that can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvembed.config import Method, Pooling
from kvembed.errors import ConfigError, KVEmbedError
from kvembed.transforms import asked_of
from pipelines.errors import TerminalError
from pipelines.evaluation.sweep_grid import (
    BIASES,
    PROMPTS,
    SweepPlan,
    Value,
    bias_values,
    default_transforms,
    every_window,
    pooling_values,
    prompt_values,
    transform_values,
    transform_words,
    window_values,
)
from pipelines.evaluation.sweep_records import Axis
from pipelines.evaluation.sweep_scoring import check_transform

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from kvembed import EncoderConfig, KVEncoder, TransformConfig


@dataclass(frozen=True, slots=True)
class Room:
    """The least room for content that any prompt of a sweep leaves; cuts chunks that fit all of them.

    Attributes:
        tokenizer: The model's.
        document_budget: Content tokens.
    """

    tokenizer: Tokenizer
    document_budget: int

    @classmethod
    def of(cls, encoder: KVEncoder, axes: Axes) -> Room:
        """Return what main and every prompt of the axes leave."""
        prompts = [value.fields for value in axes.values.get("prompt", ())]
        others = [encoder.with_config(replace(encoder.config, **fields)) for fields in prompts]  # type: ignore[arg-type]
        return cls(encoder.tokenizer, min(one.document_budget for one in (encoder, *others)))


@dataclass(frozen=True, slots=True)
class Axes:
    """Values to sweep.

    Attributes:
        values: Axis -> values, in order.
        left_out: A sentence for each default that cannot be measured here.
    """

    values: Mapping[Axis, tuple[Value, ...]]
    left_out: tuple[str, ...] = ()

    def with_window(self, layers: tuple[int, ...]) -> Axes:
        """Return the axes with this window among those that are swept."""
        windows = self.values.get("window")
        own = window_values([layers])
        if windows is None or own[0] in windows:
            return self
        return replace(self, values={**self.values, "window": (*windows, *own)})


def check_main(config: EncoderConfig) -> None:
    """Refuse a configuration around which there is nothing to sweep.

    Raises:
        TerminalError: it does not re-route.
    """
    if config.method is not Method.KV_REROUTING:
        raise TerminalError(
            f"method {config.method.value!r} re-routes nowhere, so it has no windows and no bias to sweep; "
            "leave --method out here, and measure other methods with `kvembed evaluate --method`"
        )
    if config.layers == () or not math.isfinite(config.prefix_bias):
        raise TerminalError(
            "a sweep goes around a configuration that re-routes; leave --layers out, or name layers, and give a finite "
            "--prefix-bias; no re-routing is measured beside it as window none"
        )


def model_axes(plan: SweepPlan, encoder: KVEncoder) -> Axes:
    """Return the values of every axis but "transform", which depends on the corpus.

    Raises:
        ConfigError: a value asked for that the model does not have.
        TerminalError: a width that the model does not have, or a bias that closes the slot.
    """
    if plan.biases and not all(map(math.isfinite, plan.biases)):
        raise TerminalError("a bias of -inf is no re-routing, and others must be finite; sweep window none instead")
    windows = every_window(encoder, plan.widths) if plan.windows is None else plan.windows
    offered: dict[Axis, tuple[list[Value], bool]] = {
        "bias": (bias_values(plan.biases or BIASES), False),
        "window": (window_values(windows), False),
        "pooling": (pooling_values(plan.poolings or tuple(Pooling)), False),
        "prompt": (prompt_values(plan.prompts or PROMPTS), plan.prompts is None),
    }
    values: dict[Axis, tuple[Value, ...]] = {}
    left_out: list[str] = []
    for axis in plan.axes:
        if axis != "transform":
            found, more = _possible(axis, *offered[axis], encoder)
            values[axis] = tuple(found)
            left_out += more
    return Axes(values, tuple(left_out))


def with_transforms(axes: Axes, plan: SweepPlan, encoder: KVEncoder, sample: Sequence[str]) -> Axes:
    """Return the axes with the values of "transform" that model and sample can bear, where that is swept.

    Args:
        axes: The others.
        plan: What is asked for.
        encoder: Main.
        sample: Chunks that transforms are fitted to.

    Raises:
        TerminalError: a transform asked for, or main's own, cannot be; naming it.
    """
    own = asked_of(encoder.config.transform)
    swept = plan.transforms or default_transforms(encoder.with_transform(None).dimension)
    kept, left_out = [], []
    for asked in dict.fromkeys((own, *swept) if "transform" in plan.axes else (own,)):
        reason = _obstacle(asked, encoder, sample)
        if reason is None:
            kept.append(asked)
        elif asked == own or plan.transforms is not None:
            raise TerminalError(f"transform {transform_words(asked)} cannot be measured: {reason}; leave it out")
        else:
            left_out.append(f"transform {transform_words(asked)} was left out: {reason}")
    if "transform" not in plan.axes:
        return axes
    values = tuple(transform_values([asked for asked in swept if asked in kept]))
    return Axes({**axes.values, "transform": values}, (*axes.left_out, *left_out))


def _obstacle(asked: TransformConfig | None, encoder: KVEncoder, sample: Sequence[str]) -> str | None:
    if asked is None:
        return None
    try:
        check_transform(asked, encoder, sample)
    except (KVEmbedError, TerminalError) as error:
        return str(error)
    return None


def _possible(axis: Axis, values: Sequence[Value], default: bool, encoder: KVEncoder) -> tuple[list[Value], list[str]]:
    """Return the values that the model has, and a sentence for each default that it has not."""
    kept, left_out = [], []
    for value in values:
        try:
            encoder.with_config(replace(encoder.config, **value.fields))  # type: ignore[arg-type]
        except ConfigError as error:
            if not default:
                raise
            left_out.append(f"{axis} {value.label} was left out: {error}")
        else:
            kept.append(value)
    return kept, left_out
