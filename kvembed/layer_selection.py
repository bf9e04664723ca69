"""Where to re-route: the layers around the least intrinsic dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvembed.config import JSON
from kvembed.encoder import KVEncoder
from kvembed.errors import DegenerateStatesError
from kvembed.intrinsic_dimension import intrinsic_dimension

RECOMMENDED_TEXTS = 1000
"""Sample size of the paper's re-implementations (r)."""
MINIMUM_TEXTS = 20
"""Below this many distinct texts the estimate is noise, and `select_layers` refuses."""


@dataclass(frozen=True, slots=True)
class DimensionProfile:
    """Intrinsic dimension along the depth, and the window it picks.

    Attributes:
        dimensions: One per layer, unitless.
        layers: Re-routing layers chosen: the minimum and the next floor(L / 10), as far as they can re-route.
        first_candidate: Layers below it are excluded from the choice.
        texts: Distinct texts the estimate rests on.
    """

    dimensions: tuple[float, ...]
    layers: tuple[int, ...]
    first_candidate: int
    texts: int

    def to_dict(self) -> dict[str, JSON]:
        """Return the profile as JSON values."""
        return {
            "dimensions": list(self.dimensions),
            "layers": list(self.layers),
            "first_candidate": self.first_candidate,
            "texts": self.texts,
            "estimator": "TwoNN, regression, top tenth of ratios dropped",
        }

    def plot(self, path: str | Path) -> None:
        """Draw the profile and the chosen window into an image file (PNG, SVG or PDF by suffix)."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(len(self.dimensions)), self.dimensions, marker="o", color="#1f4e79")
        axes.axvspan(self.layers[0] - 0.5, self.layers[-1] + 0.5, color="#e8a33d", alpha=0.35, label="re-routed")
        if self.first_candidate:
            axes.axvspan(-0.5, self.first_candidate - 0.5, color="#888888", alpha=0.2, label="excluded")
        axes.set(xlabel="layer", ylabel="intrinsic dimension (TwoNN)", title=f"{self.texts} texts")
        axes.set_xlim(-0.5, len(self.dimensions) - 0.5)
        axes.set_ylim(0, 1.1 * max(self.dimensions))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        figure.savefig(path, dpi=150)


def select_layers(encoder: KVEncoder, texts: Sequence[str]) -> DimensionProfile:
    """Choose re-routing layers from a sample of the corpus.

    Per layer, the last-token states of the sample under the stock model give an intrinsic dimension. The window
    starts at the layer of least dimension and spans a tenth of the depth: m .. m + floor(L / 10) (r). The first
    fifth of the layers is excluded, at least one layer where there are two (r).

    Args:
        encoder: Any layers setting, "auto" included; `encoder.with_layers(profile.layers)` applies the choice.
        texts: Documents as they will be embedded; repeated ones count once. About 1,000 are recommended.

    Raises:
        DegenerateStatesError: fewer than 20 distinct texts, or states that do not differ.

    Source: KV-Embedding, arXiv 2601.01046; Facco et al. 2017 for the estimator.
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < MINIMUM_TEXTS:
        raise DegenerateStatesError(
            f"{len(distinct)} distinct texts are too few to measure layers on; "
            f"give at least {MINIMUM_TEXTS}, better {RECOMMENDED_TEXTS}"
        )
    dimensions = tuple(intrinsic_dimension(states) for states in encoder.last_token_states(distinct))
    first = first_candidate(encoder.num_layers)
    candidates = [layer for layer in encoder.reroutable_layers if layer >= first] or list(encoder.reroutable_layers)
    minimum = min(candidates, key=lambda layer: dimensions[layer])
    return DimensionProfile(dimensions, layer_window(encoder, minimum), first, len(distinct))


def first_candidate(num_layers: int) -> int:
    """Return the lowest layer that may be chosen: a fifth of the depth, at least 1 where there are two layers."""
    return min(max(1, num_layers // 5), num_layers - 1)


def layer_window(encoder: KVEncoder, start: int) -> tuple[int, ...]:
    """Return the layers start .. start + floor(L / 10) that exist and can re-route."""
    stop = min(start + encoder.num_layers // 10, encoder.num_layers - 1)
    return tuple(layer for layer in encoder.reroutable_layers if start <= layer <= stop)
