"""Text of documents -> text that cannot steer a terminal."""

from __future__ import annotations

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTROL = {code: _REPLACEMENT for code in (*range(0x20), *range(0x7F, 0xA0))}
_IN_PARAGRAPHS = {code: text for code, text in _CONTROL.items() if chr(code) not in "\n\t"}
_IN_A_LINE = _CONTROL | dict.fromkeys(map(ord, "\t\n\v\f\r"), " ")


def paragraphs(text: str) -> str:
    """Replace C0 and C1 control characters, all but line break and tab."""
    return text.translate(_IN_PARAGRAPHS)


def line(text: str) -> str:
    """Replace control characters, white space among them by a blank: an id must not begin a line of its own."""
    return text.translate(_IN_A_LINE)
