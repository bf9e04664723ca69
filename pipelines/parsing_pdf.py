"""PDF through pdfium: the text of each page, with bookmarks and page numbers as headings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.documents import Heading
from pipelines.parsed import ParsedText, ParseError, missing_extra, one_line

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

_PAGE_LEVEL = 100
"""Deeper than any bookmark, so that a page never closes a section."""

_PAGE_BREAK = "\n\n"


def parse_pdf(data: bytes) -> ParsedText:
    """Read the text layer of a PDF.

    Raises:
        ParseError: the extra is missing; damaged; locked by a password; no text layer.
    """
    try:
        from pypdfium2 import PdfDocument, PdfiumError
    except ImportError:
        raise missing_extra("PDF", "pdf") from None
    try:
        with PdfDocument(data) as document:
            return _parsed(document)
    except PdfiumError as error:
        raise ParseError(f"not a PDF that can be opened ({error}); repair it, or remove its password") from None


def _parsed(document: PdfDocument) -> ParsedText:
    pages = [_page_text(document, number) for number in range(len(document))]
    if not any(page.strip() for page in pages):
        raise ParseError(f"no text on its {len(pages)} pages; scanned pages need character recognition (OCR) first")
    starts = [0]
    for page in pages:
        starts.append(starts[-1] + len(page) + len(_PAGE_BREAK))
    headings = sorted(
        [*_bookmarks(document, starts), *_page_numbers(starts[:-1])],
        key=lambda heading: (heading.start, heading.level),
    )
    title = one_line(document.get_metadata_value("Title"))
    return ParsedText(_PAGE_BREAK.join(pages), title, tuple(headings))


def _page_text(document: PdfDocument, number: int) -> str:
    page = document[number]
    try:
        text = str(page.get_textpage().get_text_bounded())
    finally:
        page.close()
    # pdfium writes U+FFFE where a hyphen ends a line in the middle of a word.
    return text.replace("\r\n", "\n").replace("\ufffe\n", "").replace("\ufffe", "").replace("\0", "").strip()


def _bookmarks(document: PdfDocument, starts: list[int]) -> Iterator[Heading]:
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        page = target.get_index() if target else None
        title = one_line(bookmark.get_title())
        if page is not None and page < len(starts) - 1 and title:
            yield Heading(starts[page], min(bookmark.level + 1, _PAGE_LEVEL - 1), title)


def _page_numbers(starts: list[int]) -> Iterator[Heading]:
    for number, start in enumerate(starts, start=1):
        yield Heading(start, _PAGE_LEVEL, f"page {number}")
