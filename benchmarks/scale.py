"""What 10 million, 1 billion and 100 billion chunks need, computed from the constants in scale_constants.py.

    python -m benchmarks.scale                        every table of docs/scale.md, in Markdown
    python -m benchmarks.scale --set gpu_hour=1.8 --set utilisation=0.55 --chunks 3e9
    python -m benchmarks.scale --measured FILE        FILE from `python -m benchmarks.scale_measure --json`
    python -m benchmarks.scale --write docs/scale.md  puts the tables where the page has them

Nothing is measured here. Formulas stand in scale_model.py; a constant is replaced by its name.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.scale_constants import CONSTANTS, values
from benchmarks.scale_model import LAYOUTS, Estimate, breaking_points

SIZES = (1e7, 1e9, 1e11)
GPUS = (1, 8, 64, 1024)
_BLOCK = re.compile(r"(<!-- scale: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def constants_table(known: Mapping[str, float]) -> str:
    """Every constant, its kind and its source."""
    rows = []
    for one in CONSTANTS:
        kind = one.kind if known[one.name] == one.value else "given"
        rows.append((f"`{one.name}`", _number(known[one.name]), one.unit or "-", kind, one.source))
    return _table(("Constant", "Value", "Unit", "Kind", "Source"), rows)


def embedding_table(found: Sequence[Estimate]) -> str:
    """Tokens, GPU hours and days."""
    rows = []
    for one in found:
        days = [_number(one.device_hours / 24 / count) for count in GPUS]
        rows.append((_count(one.chunks), _count(one.documents), _count(one.tokens), _number(one.device_hours), *days))
    return _table(("Chunks", "Documents", "Tokens", "GPU hours", *[f"days on {count:,}" for count in GPUS]), rows)


def storage_table(found: Sequence[Estimate]) -> str:
    """Memory, disk, nodes and shards by layout."""
    rows = []
    for one in found:
        for layout in LAYOUTS:
            made, sizes = one.cluster(layout), (_bytes(one.memory(layout)), _bytes(one.disk(layout)))
            count = f"{made.count:,} {made.node.name}"
            rows.append((_count(one.chunks), layout, *sizes, count, made.decides, f"{one.shards(layout):,}"))
    return _table(("Chunks", "In memory", "Memory", "Disk", "Nodes", "decided by", "Shards"), rows)


def loading_table(found: Sequence[Estimate]) -> str:
    """What goes over the wire, and how long each part takes, on the nodes of the int8 layout."""
    rows = [
        (
            _count(one.chunks),
            _bytes(one.wire_bytes),
            _number(one.load_hours("int8")),
            _number(one.writer_hours),
            _number(one.writer_hours / one.device_hours),
            _number(one.graph_hours("int8")),
        )
        for one in found
    ]
    head = ("Chunks", "On the wire", "Network, hours", "Writing, core hours", "Writing cores a GPU", "Graphs, hours")
    return _table(head, rows)


def bookkeeping_table(found: Sequence[Estimate]) -> str:
    """What knowing the state of every document costs."""
    rows = [
        (
            _count(one.documents),
            _bytes(one.documents * one.known["wire_bytes_per_document"]),
            _bytes(one.plan_memory),
            _number(one.plan_hours),
            _number(one.scan_hours),
            f"{one.prefect_seconds:.3g} s",
        )
        for one in found
    ]
    return _table(
        ("Documents", "Ledger", "Memory of a plan", "A plan, core hours", "verify --full, h", "Prefect"), rows
    )


def money_table(found: Sequence[Estimate]) -> str:
    """USD for a million chunks."""
    rows = []
    for one in found:
        for layout in LAYOUTS:
            parts = one.money(layout)
            million = sum(parts.values())
            total = _count(million * one.chunks / 1e6)
            rows.append(
                (_count(one.chunks), layout, *[f"{part:.3f}" for part in parts.values()], f"{million:.2f}", total)
            )
    return _table(("Chunks", "In memory", "GPUs", "Writers", "Nodes", "USD a million", "USD in all"), rows)


def breaking_table(known: Mapping[str, float]) -> str:
    """Where each part ends, the smallest first."""
    rows = [(_count(chunks), what, why) for chunks, what, why in sorted(breaking_points(known))]
    return _table(("Chunks", "Ends here", "By"), rows)


def tables(known: Mapping[str, float], sizes: Sequence[float] = SIZES) -> dict[str, str]:
    """Return every table by the name that docs/scale.md calls it."""
    found = [Estimate(size, known) for size in sizes]
    return {
        "constants": constants_table(known),
        "embedding": embedding_table(found),
        "storage": storage_table(found),
        "loading": loading_table(found),
        "bookkeeping": bookkeeping_table(found),
        "money": money_table(found),
        "breaking": breaking_table(known),
    }


def rewritten(page: str, made: Mapping[str, str]) -> str:
    """Return a page with its tables made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", page)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _count(value: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for size, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f} B"


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pair(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


def main() -> None:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="another constant")
    parser.add_argument("--chunks", action="append", type=float, metavar="N", help="other sizes than 1e7, 1e9, 1e11")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="what scale_measure.py --json printed")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--json", action="store_true", help="print one JSON document: tables by name")
    options = parser.parse_args()
    measured = json.loads(options.measured.read_text(encoding="utf-8")) if options.measured else {}
    names = {constant.name for constant in CONSTANTS if constant.kind == "measured"}
    changed = {name: value for name, value in measured.items() if name in names} | dict(options.set)
    try:
        made = tables(values(changed), options.chunks or SIZES)
    except ValueError as error:
        parser.error(str(error))
    if options.write:
        options.write.write_text(rewritten(options.write.read_text(encoding="utf-8"), made), encoding="utf-8")
    elif options.json:
        print(json.dumps(made))
    else:
        print("\n\n".join(f"## {name}\n\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    main()
