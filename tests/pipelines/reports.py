"""Reading a report's page as a browser would, strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import lxml.html

VOID = frozenset({"meta", "wbr", "br", "hr", "img", "input", "link"})
SVG = frozenset({"path", "use", "rect", "g", "defs"})  # may close themselves


@dataclass
class Strict(HTMLParser):
    """Every tag is closed in order; ids and references are kept."""

    open: list[str] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> outside a drawing"
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.seen if "id" in attributes]

    @property
    def references(self) -> list[str]:
        """What the page refers to, of whatever kind."""
        kept = ("href", "src", "srcset", "action", "data", "poster", "xlink:href")
        return [str(value) for _, attributes in self.seen for name, value in attributes.items() if name in kept]


def strictly(html: str) -> Strict:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def tables(html: str) -> dict[str, list[list[str]]]:
    """Caption -> rows, the head first; a cell's two lines are joined by a blank."""
    found: dict[str, list[list[str]]] = {}
    for table in lxml.html.fromstring(html).iter("table"):
        rows = [[_cell(cell) for cell in row] for row in table.iter("tr")]
        caption = table.find("caption").text_content().strip()
        found.setdefault(caption, rows)  # the first; sections may have tables of the same name
    return found


def _cell(cell: lxml.html.HtmlElement) -> str:
    for below in cell.iter("small"):
        below.text = f" {below.text}"
    return cell.text_content().strip()
