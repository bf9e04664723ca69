"""A dimension profile as a part of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pipelines.evaluation.report_charts import profile_chart
from pipelines.evaluation.report_records import Block, Chart, Table
from pipelines.evaluation.report_words import NOTHING

if TYPE_CHECKING:
    from pipelines.errors import JSON


def profile_block(name: str, profile: Mapping[str, JSON]) -> Block:
    """Show the intrinsic dimension by layer and what was chosen by it.

    Args:
        name: Of the drawing, as `draw_svg`.
        profile: `DimensionProfile.to_dict()`.
    """
    dimensions = cast("list[float]", profile["dimensions"])
    chosen, rivals = cast("list[int]", profile["layers"]), cast("list[int]", profile.get("rivals", []))
    words = f"Layer{'s' if len(chosen) > 1 else ''} {_listed(chosen)} re-routed, of {len(dimensions)}"
    notes = (
        [f"{words}, chosen on {profile['texts']:,} texts by {profile['estimator']}."] if "texts" in profile else [words]
    )
    if rivals:
        plural = "s" if len(rivals) > 1 else ""
        notes.append(f"The least dimension cannot be told from that of layer{plural} {_listed(rivals)} (95 %).")
    title = f"Intrinsic dimension by layer: {', '.join(f'{one:.1f}' for one in dimensions)}. {words}."
    chart = Chart(profile_chart(name, title, profile), "Intrinsic dimension of each layer's last-token states")
    return Block("Layers", tuple(notes), (chart,), folded=(_table(profile, dimensions, chosen),))


def _table(profile: Mapping[str, JSON], dimensions: list[float], chosen: list[int]) -> Table:
    intervals = cast("list[list[float]]", profile.get("intervals") or [])
    rows = tuple(
        (
            str(layer),
            f"{dimension:.2f}",
            f"{intervals[layer][0]:.2f} to {intervals[layer][1]:.2f}" if intervals else NOTHING,
            "re-routed" if layer in chosen else "",
        )
        for layer, dimension in enumerate(dimensions)
    )
    return Table("Intrinsic dimension by layer", ("layer", "dimension", "95 %", ""), rows, frozenset({3}))


def _listed(layers: list[int]) -> str:
    return ", ".join(str(layer) for layer in layers)
