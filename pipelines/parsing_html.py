"""HTML and DOCX -> plain text with headings.

Trafilatura picks a page's main content and mammoth reads DOCX; both hand over
simple HTML, which one converter lays out as text.
"""

from __future__ import annotations

import codecs
import html
import io
import re
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from pipelines.documents import Heading
from pipelines.parsed import ParsedText, ParseError, missing_extra, one_line

if TYPE_CHECKING:
    from configparser import ConfigParser

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_UNSEEN = frozenset("script style noscript template title svg math".split())
_PARAGRAPHS = frozenset(
    "address article aside blockquote body details div dl fieldset figcaption figure footer form "
    "header hr main nav ol p pre section summary table ul".split()
) | frozenset(_HEADINGS)
_LINES = frozenset("br caption dd dt li option tr".split())
_CELLS = frozenset(("td", "th"))
_LISTS = frozenset(("ul", "ol"))
_CLOSING_LEAD = frozenset(("li", "tr", "table"))

_TITLE = re.compile(r"<title[^>]*>(.*?)</title\s*>", re.I | re.S)
_CHARSET = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_SPACES = re.compile(r"[ \t\r\n\f]+")
_CHARSET_WITHIN = 4096
"""Bytes searched for a declared encoding; browsers look at 1024."""


def parse_html(data: bytes) -> ParsedText:
    """Read a page's main content: no navigation, no footers, no scripts.

    A page in which no main content is found is read whole.

    Raises:
        ParseError: the extra is missing; the encoding is neither UTF-8 nor the declared one.
    """
    try:
        import trafilatura
    except ImportError:
        raise missing_extra("HTML", "html") from None
    page = _XML_DECLARATION.sub("", _decode_page(data), count=1)
    main = trafilatura.extract(
        page,
        output_format="html",
        include_comments=False,
        include_formatting=True,
        favor_recall=True,
        config=_trafilatura_config(),
    )
    named = _TITLE.search(page)
    parsed = lay_out(main) if main else lay_out(page)
    title = one_line(html.unescape(named[1])) if named else ""
    return ParsedText(parsed.text, title or parsed.title, parsed.headings)


def parse_docx(data: bytes) -> ParsedText:
    """Read paragraphs, headings, lists and tables of a Word document.

    Raises:
        ParseError: the extra is missing.
    """
    try:
        import mammoth
    except ImportError:
        raise missing_extra("DOCX", "docx") from None
    converted = mammoth.convert_to_html(io.BytesIO(data), style_map="p[style-name='Title'] => h1:fresh")
    return lay_out(str(converted.value))


def lay_out(page: str) -> ParsedText:
    """Turn HTML into text: paragraphs by blank lines, list items and table rows by lines.

    The title is the first heading of level 1.
    """
    layout = _Layout()
    layout.feed(page)
    layout.close()
    headings = tuple(layout.headings)
    title = next((heading.title for heading in headings if heading.level == 1), "")
    return ParsedText("".join(layout.parts), title, headings)


class _Layout(HTMLParser):
    """Collects text in `parts` and headings with their offsets in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self._length = 0
        self._breaks = 0
        self._space = False
        self._lead = ""
        self._first_cell = True
        self._unseen = 0
        self._preformatted = 0
        self._in_paragraph = False
        self._lists = 0
        self._heading: tuple[int, int] | None = None  # (level, index of its first part)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Trafilatura writes inline code as <pre> inside <p>, where HTML knows no block.
        if tag == "pre" and self._in_paragraph:
            return
        self._break_at(tag)
        if tag in _HEADINGS:
            self._heading = (_HEADINGS[tag], len(self.parts))
        elif tag == "li":
            self._lead = "- "
        elif tag == "tr":
            self._first_cell = True
        elif tag in _CELLS:
            self._lead, self._first_cell = "" if self._first_cell else " | ", False
        self._count(tag, 1)

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre" and self._in_paragraph:
            return
        if tag in _HEADINGS:
            self._close_heading()
        if tag in _CLOSING_LEAD:
            self._lead = ""
        self._count(tag, -1)
        self._break_at(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._preformatted:
            self._write(data.replace("\r\n", "\n").strip("\n") if data.strip() else "")
            return
        collapsed = _SPACES.sub(" ", data)
        self._space = self._space or collapsed.startswith(" ")
        self._write(collapsed.strip(" "))
        self._space = self._space or collapsed.endswith(" ")

    def close(self) -> None:
        super().close()
        self._close_heading()

    def _count(self, tag: str, change: int) -> None:
        """Keep what is open; a stray end tag opens nothing."""
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen + change)
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted + change)
        elif tag in _LISTS:
            self._lists = max(0, self._lists + change)
        elif tag in _PARAGRAPHS:
            self._in_paragraph = tag == "p" and change > 0

    def _break_at(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            # Inside a list, blocks stand on lines of their own without a blank line between.
            self._breaks = max(self._breaks, 1 if self._lists else 2)
        elif tag in _LINES:
            self._breaks = max(self._breaks, 1)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._breaks and self.parts:
            self._append("\n" * self._breaks)
        elif self._space and self.parts and not self._lead:
            self._append(" ")
        lead = self._lead.lstrip() if self._breaks or not self.parts else self._lead
        self._breaks, self._space, self._lead = 0, False, ""
        self._append(lead + text)

    def _append(self, text: str) -> None:
        self.parts.append(text)
        self._length += len(text)

    def _close_heading(self) -> None:
        if self._heading is None:
            return
        (level, first), self._heading = self._heading, None
        text = "".join(self.parts[first:])
        if title := one_line(text):
            start = self._length - len(text.lstrip("\n"))
            self.headings.append(Heading(start, level, title))


def _decode_page(data: bytes) -> str:
    """Decode by byte-order mark, then by what the page declares, then as UTF-8; never by guess."""
    declared = _CHARSET.search(data[:_CHARSET_WITHIN])
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            encoding = name
    # Browsers read these names as Windows-1252, and pages are written to what browsers do.
    if encoding.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"):
        encoding = "windows-1252"
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise ParseError(
            f"HTML that cannot be decoded as {encoding} ({error}); save it as UTF-8, "
            "or declare its encoding in <meta charset>"
        ) from None


@cache
def _trafilatura_config() -> ConfigParser:
    from trafilatura.settings import use_config

    config = use_config()
    # By default a page under 250 characters loses its headings and keeps its navigation.
    config["DEFAULT"]["MIN_EXTRACTED_SIZE"] = "1"
    return config
