"""A report as HTML and as Markdown; everything that came from data is escaped for either."""

from __future__ import annotations

import re
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.evaluation.report_records import Page
from pipelines.evaluation.report_words import shown

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&!#{}])")
_LINE_BEGINS = re.compile(r"^([-+=:]|\d{1,9}(?=[.)](?:\s|$)))")
_BREAKABLE: Final = re.compile(r"([/_.@=,:])(?=\w)")


def as_html(page: Page) -> str:
    """Write one page that needs nothing but itself: no script, no font, no picture, nothing from a network."""
    return _environment(escaped=True).get_template("report.html.j2").render(page=page)


def as_markdown(page: Page) -> str:
    """Write the same in Markdown (CommonMark with tables), without the drawings."""
    return _environment(escaped=False).get_template("report.md.j2").render(page=page)


def in_markdown(text: str, limit: int = 600) -> str:
    """Write a text of the data so that Markdown takes every character of it for itself."""
    escaped = _MARKDOWN.sub(r"\\\1", shown(text, limit))
    begun = _LINE_BEGINS.match(escaped)
    if begun is None:
        return escaped
    at = begun.end() if begun[0][0].isdigit() else 0
    return f"{escaped[:at]}\\{escaped[at:]}"


def in_code(text: str) -> str:
    """Write a text as code in Markdown, whatever backticks it has; a bar would end a table's cell."""
    whole = shown(text, 2000)
    longest = max((len(found) for found in re.findall("`+", whole)), default=0)
    fence = "`" * (longest + 1)
    space = " " if whole.startswith("`") or whole.endswith("`") else ""
    return f"{fence}{space}{whole}{space}{fence}"


def _breakable(text: str) -> Markup:
    """Let a long name break after a sign within it."""
    return Markup(_BREAKABLE.sub(r"\1<wbr>", str(Markup.escape(shown(text, 2000)))))


def _environment(*, escaped: bool) -> Environment:
    found = Environment(
        loader=PackageLoader("pipelines.evaluation", "report_templates"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "shown": shown,
        "md": in_markdown,
        "code": in_code,
        "breakable": _breakable,
        "drawing": Markup,
    }
    found.filters.update(filters)
    return found
