"""matplotlib's drawings as SVG that stands inside a page and takes the page's colours and fonts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from pipelines.evaluation.report_words import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

WIDTH: Final = 360.0
"""Of every drawing, in CSS pixels at the width of a phone; wider pages scale it up."""
FONT: Final = 11.0

# Colours that matplotlib carries; each stands for the page's variable of that name.
INK, MUTED, GRID, PAPER = "#00000a", "#00000b", "#00000c", "#00000d"
MAIN, OTHER, BESIDE, MARK = "#00001a", "#00001b", "#00001c", "#00001d"
VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    MAIN: "main",
    OTHER: "other",
    BESIDE: "beside",
    MARK: "mark",
}

_STYLE: dict[RcKeyType, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": FONT,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": FONT,
    "path.simplify": False,
    "figure.constrained_layout.use": True,
}
_XLINK = "{http://www.w3.org/1999/xlink}href"
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
_USED = re.compile(r"url\(#([^)]+)\)")
# matplotlib before 3.10 writes size and family in one.
_FONT = re.compile(r"(?:(?P<weight>\w+) )?(?P<size>[\d.]+px) ")
_NO_TURN = re.compile(r"rotate\(-?0 ")


def draw_svg(name: str, title: str, height: float, draw: Callable[[Figure], None]) -> str:
    """Draw an inline SVG.

    Text stays text, in the page's font; colours are the page's variables; the ids are the page's own as long as the
    names are. Equal drawings are equal in every byte.

    Args:
        name: Of letters, digits and `-`, unique in the page.
        title: What is read out in place of the drawing.
        height: In the unit of `WIDTH`.
        draw: Fills the figure, with colours of `VARIABLES` alone.

    Raises:
        ValueError: it drew with another colour.
    """
    import matplotlib
    from matplotlib.figure import Figure

    written = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a style of the user's own would bring its own colours and sizes
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        draw(figure)
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(written.getvalue())
    _strip(root)
    _rename(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title"}
    label = ElementTree.Element("title", {"id": f"{name}-title"})
    label.text = shown(title, 5000)
    root.insert(0, label)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element) -> None:
    """Take out what a page has no use for: name spaces, metadata, styles that would reach the whole page, fonts."""
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        parent.tail = None
        if parent.tag not in ("text", "tspan"):
            parent.text = None
        if _NO_TURN.match(parent.attrib.get("transform", "")):
            del parent.attrib["transform"]
        if _XLINK in parent.attrib:
            parent.attrib["href"] = parent.attrib.pop(_XLINK)
        if "d" in parent.attrib:
            parent.attrib["d"] = " ".join(parent.attrib["d"].split())
        if "style" in parent.attrib:
            parent.attrib["style"] = "; ".join(_declarations(parent.attrib["style"]))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)


def _declarations(style: str) -> Iterator[str]:
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (found := _FONT.match(value)):
            yield f"font-size: {found['size']}"
            yield from [f"font-weight: {found['weight']}"] if found["weight"] else []
        elif key and key != "font-family":
            yield f"{key}: {_HEX.sub(_variable, value)}"


def _variable(colour: re.Match[str]) -> str:
    name = VARIABLES.get(colour[0].lower())
    if name is None:
        raise ValueError(f"a drawing has the colour {colour[0]}, which is none of the page's; use one of VARIABLES")
    return f"var(--{name})"


def _rename(root: ElementTree.Element, name: str) -> None:
    """Keep the ids that something refers to, under names that no other drawing has."""
    elements = list(root.iter())
    used = {value[1:] for one in elements if (value := one.attrib.get("href", "")).startswith("#")}
    used |= {found for one in elements for value in one.attrib.values() for found in _USED.findall(value)}
    places = {old: f"{name}-{number}" for number, old in enumerate(sorted(used))}
    for one in elements:
        for key, value in one.attrib.items():
            if key == "href":
                one.attrib[key] = f"#{places[value[1:]]}"
            elif key != "id":
                one.attrib[key] = _USED.sub(lambda found: f"url(#{places[found[1]]})", value)
        if (old := one.attrib.pop("id", None)) in places:
            one.attrib["id"] = places[str(old)]
