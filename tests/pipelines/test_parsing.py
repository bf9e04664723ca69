"""Text formats keep the file to the character; headings stand where the file has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.parsed import ParseError
from pipelines.parsing import SUPPORTED_SUFFIXES, decode, parse

MARKDOWN = """\
---
title: "The handbook"
author: x
---

# Refunds and *returns*

Text.

```python
# no heading
```

    # indented code, no heading

Setext title
============

Under `it`
---

> ## [Quoted](https://example.org) heading

#no heading either
### Deep ###
"""

RST = """\
==========
 Handbook
==========

First
=====

Text::

    Not a title
    -----------

Second
------

Third
=====

----

too long a line for its underline
---
"""


def headings(parsed):
    return [(heading.level, heading.title) for heading in parsed.headings]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_markdown_headings_have_level_title_and_exact_offset(newline):
    text = MARKDOWN.replace("\n", newline)
    parsed = parse(text.encode(), ".md")
    assert parsed.text == text
    assert parsed.title == "The handbook"
    assert parsed.format == "markdown"
    assert headings(parsed) == [
        (1, "Refunds and returns"),
        (1, "Setext title"),
        (2, "Under it"),
        (2, "Quoted heading"),
        (3, "Deep"),
    ]
    starts = [parsed.text[heading.start :].split(newline)[0] for heading in parsed.headings]
    assert starts == [
        "# Refunds and *returns*",
        "Setext title",
        "Under `it`",
        "> ## [Quoted](https://example.org) heading",
        "### Deep ###",
    ]


def test_markdown_without_front_matter_is_titled_by_its_first_heading_of_level_1():
    assert parse(b"## Small\n\n# Large\n", ".markdown").title == "Large"
    assert parse(b"no heading", ".md").title == ""


def test_markdown_other_line_separators_do_not_move_headings():
    text = "a\x0bb\x0cc\x85d\u2028e\n\n# Heading\n"
    (heading,) = parse(text.encode(), ".md").headings
    assert text[heading.start :] == "# Heading\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_rst_titles_have_level_by_first_appearance_and_exact_offset(newline):
    text = RST.replace("\n", newline)
    parsed = parse(text.encode(), ".rst")
    assert parsed.text == text
    assert parsed.title == "Handbook"
    assert headings(parsed) == [(1, "Handbook"), (2, "First"), (3, "Second"), (2, "Third")]
    starts = [parsed.text[heading.start :].split(newline)[0] for heading in parsed.headings]
    assert starts == ["==========", "First", "Second", "Third"]


@given(st.text())
def test_markup_any_text_comes_back_unchanged_with_headings_inside(text):
    data = text.replace("\0", "").encode("utf-8")
    for suffix in (".md", ".rst", ".txt"):
        parsed = parse(data, suffix)
        assert parsed.text == decode(data)
        assert all(heading.start < len(parsed.text) for heading in parsed.headings)


def test_plain_text_keeps_crlf_tabs_and_combining_marks():
    text = "a\r\n\tb e\u0301 שלום 👩‍👩‍👧\n"
    parsed = parse(text.encode(), ".txt")
    assert (parsed.text, parsed.title, parsed.headings, parsed.format) == (text, "", (), "plain")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_decode_byte_order_mark_is_no_part_of_the_text(encoding):
    assert decode("naïve 東京 🙂".encode(encoding)) == "naïve 東京 🙂"


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_decode_big_endian_mark_is_understood(encoding):
    assert decode("\ufeffnaïve".encode(encoding)) == "naïve"


def test_decode_latin1_is_refused_with_offset_and_advice():
    with pytest.raises(ParseError, match=r"not UTF-8 \(byte 0xe9 at offset 3\).*iconv -f latin1 -t utf-8"):
        decode("caf\u00e9".encode("latin-1"))


def test_decode_offset_of_bad_byte_counts_the_byte_order_mark():
    with pytest.raises(ParseError, match="byte 0xff at offset 4"):
        decode(b"\xef\xbb\xbfa\xff")


def test_decode_nul_is_refused_as_binary():
    with pytest.raises(ParseError, match=r"binary file \(a NUL byte at offset 4\)"):
        decode(b"\x7fELF\x00\x01")
    with pytest.raises(ParseError, match=r"binary file \(a NUL character"):
        decode("a\0b".encode("utf-16"))


def test_parse_half_a_character_in_utf8_is_refused():
    with pytest.raises(ParseError, match=r"not UTF-8 \(byte 0xed at offset 1\)"):
        parse(b"a\xed\xa0\x80", ".txt")


def test_parse_suffix_in_capitals_and_unknown_suffix_are_read():
    assert parse(b"# T", ".MD").title == "T"
    assert parse(b"# T", ".unknown").title == ""


def test_supported_suffixes_are_lower_case_with_dot():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUPPORTED_SUFFIXES)
    assert {".txt", ".md", ".rst", ".html", ".pdf", ".docx", ".py"} <= SUPPORTED_SUFFIXES


@pytest.mark.parametrize(
    ("suffix", "module", "kind", "extra"),
    [
        (".html", "trafilatura", "HTML", "html"),
        (".pdf", "pypdfium2", "PDF", "pdf"),
        (".docx", "mammoth", "DOCX", "docx"),
    ],
)
def test_parse_missing_extra_names_what_to_install(monkeypatch, suffix, module, kind, extra):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ParseError, match=f'{kind} needs an extra.*pip install "kvembed\\[{extra}\\]"'):
        parse(b"anything", suffix)
