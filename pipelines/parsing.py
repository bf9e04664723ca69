"""Bytes of one file -> its text, title and headings.

The text of plain, Markdown, reStructuredText and code files is the file, to the
character, so that a span in it is a span in the file. HTML, PDF and DOCX are
read by extras; without the extra each such file is rejected and the reason
names what to install, so an index never depends on what happens to be there.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

from pipelines.parsed import ParsedText, ParseError
from pipelines.parsing_html import parse_docx, parse_html
from pipelines.parsing_markup import parse_markdown, parse_rst
from pipelines.parsing_pdf import parse_pdf

_CODE = (
    ".py .pyi .pyx .ipy .js .mjs .cjs .jsx .ts .tsx .java .kt .kts .scala .groovy .c .h .cc .cpp .cxx .hh "
    ".hpp .cu .cuh .cs .fs .go .rs .rb .php .swift .m .mm .pl .pm .lua .r .jl .hs .ml .mli .ex .exs .erl "
    ".clj .cljs .lisp .el .scm .sh .bash .zsh .fish .ps1 .bat .sql .proto .graphql .css .scss .less .vue "
    ".svelte .tf .nix .zig .dart .f90 .asm .s .cmake .mk .toml .yaml .yml .ini .cfg .xml"
).split()

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    # UTF-32's little-endian mark begins with UTF-16's, so it is asked first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

CODE_SUFFIXES = frozenset(_CODE)
"""Read as plain text and titled by their file name."""


def decode(data: bytes) -> str:
    """Read bytes as Unicode text, exactly or not at all.

    Args:
        data: UTF-8, or UTF-8, UTF-16 or UTF-32 behind a byte-order mark, which is not part of the text.

    Raises:
        ParseError: another encoding, or a binary file.
    """
    mark, encoding = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", "utf-8"))
    if encoding == "utf-8" and b"\0" in data:
        raise ParseError(
            f"binary file (a NUL byte at offset {data.index(0)}); remove it from the source, or save it as UTF-8 text"
        )
    body = data[len(mark) :] if encoding == "utf-8" else data
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        raise ParseError(
            f"not {encoding.upper()} (byte 0x{body[error.start]:02x} at offset {error.start + len(data) - len(body)}); "
            "save it as UTF-8, for example with `iconv -f latin1 -t utf-8`"
        ) from None
    if "\0" in text:
        raise ParseError("binary file (a NUL character in it); save it as text without NUL")
    return text


def _plain(data: bytes) -> ParsedText:
    return ParsedText(decode(data))


_PARSERS: dict[str, Callable[[bytes], ParsedText]] = {
    **dict.fromkeys((".txt", ".text", ".log", ".adoc", ".org", ".tex"), _plain),
    **dict.fromkeys(CODE_SUFFIXES, _plain),
    **dict.fromkeys((".md", ".markdown", ".mdx"), lambda data: parse_markdown(decode(data))),
    **dict.fromkeys((".rst", ".rest"), lambda data: parse_rst(decode(data))),
    **dict.fromkeys((".html", ".htm", ".xhtml"), parse_html),
    ".pdf": parse_pdf,
    ".docx": parse_docx,
}

SUPPORTED_SUFFIXES = frozenset(_PARSERS)
"""Lower case, with the dot."""


def parse(data: bytes, suffix: str) -> ParsedText:
    """Read one file.

    Args:
        data: The whole file.
        suffix: As in the file's name, dot included, in any case; an unknown one is read as plain text.

    Raises:
        ParseError: it cannot be read; the message says what came and what to do.
    """
    try:
        return _PARSERS.get(suffix.lower(), _plain)(data)
    except ParseError:
        raise
    except Exception as error:
        raise ParseError(
            f"not readable as {suffix or 'text'} ({type(error).__name__}: {error}); "
            "open it with the program that made it and save it again"
        ) from error
