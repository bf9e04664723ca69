"""HTML, PDF and DOCX made here byte by byte, so that no binary file is in the repository."""

from __future__ import annotations

import io
import zipfile

import pytest

from pipelines.parsed import ParseError
from pipelines.parsing import parse
from pipelines.parsing_html import lay_out

PAGE = """<!DOCTYPE html><html><head><title>Refunds &amp; returns</title><style>p {{}}</style></head><body>
<nav><a href="/">Home</a> <a href="/blog">Blog</a></nav>
<main><h1>Refunds <em>now</em></h1><p>You can return <b>goods</b> within 30&nbsp;days{extra}.</p>
<h2>How</h2><ul><li>one<ul><li>sub</li></ul></li><li>two</li></ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>c</td><td>d</td></tr></table></main>
<script>var tracking = "secret";</script><footer>Copyright</footer></body></html>"""

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(pages, *, title=None):
    """Write the smallest PDF with one line of text per page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        content = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    info = f"/Info {len(objects) + 1} 0 R" if title else ""
    if title:
        objects.append(f"<< /Title ({title}) >>")
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {info} >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode() + trailer.encode()


def docx(paragraphs):
    """Write the smallest DOCX; paragraphs are (style or "", text)."""
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{style.replace(" ", "")}"><w:name w:val="{style}"/></w:style>'
        for style in ("Title", "heading 1", "heading 2")
    )
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style.replace(" ", "")}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    kinds = "http://schemas.openxmlformats.org/package/2006/content-types"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{kinds}">'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}/officeDocument" '
        'Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" '
        f'Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "word/styles.xml": f'<w:styles xmlns:w="{WORD}">{styles}</w:styles>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def assert_headings_stand_where_they_say(parsed, titles):
    assert [heading.title for heading in parsed.headings] == titles
    for heading in parsed.headings:
        assert parsed.text[heading.start :].startswith(heading.title)


def test_html_main_content_without_navigation_scripts_and_footer():
    pytest.importorskip("trafilatura")
    parsed = parse(PAGE.format(extra=" <code>at(x, y)</code>").encode(), ".html")
    assert parsed.title == "Refunds & returns"
    assert "You can return goods within 30\u00a0days at(x, y)." in parsed.text
    for unwanted in ("Blog", "tracking", "Copyright", "<", "p {"):
        assert unwanted not in parsed.text
    assert_headings_stand_where_they_say(parsed, ["Refunds now", "How"])


def test_html_same_page_twice_is_the_same_text():
    pytest.importorskip("trafilatura")
    page = PAGE.format(extra=" and more" * 200).encode()
    assert parse(page, ".html") == parse(page, ".htm")


@pytest.mark.parametrize(("page", "text"), [("<p>hi", "hi"), ("", ""), ("<div>only</div>", "only")])
def test_html_without_main_content_is_read_whole(page, text):
    pytest.importorskip("trafilatura")
    assert parse(page.encode(), ".html").text == text


def test_html_with_xml_declaration_is_read():
    pytest.importorskip("trafilatura")
    page = '<?xml version="1.0" encoding="UTF-8"?>\n' + PAGE.format(extra=" é")
    assert "30\u00a0days é" in parse(page.encode(), ".xhtml").text


@pytest.mark.parametrize("encoding", ["windows-1252", "iso-8859-1", "shift_jis"])
def test_html_declared_encoding_is_used(encoding):
    pytest.importorskip("trafilatura")
    word = "日本語" if encoding == "shift_jis" else "café"
    page = f'<meta charset="{encoding}"><p>{word} for everybody</p>'
    assert parse(page.encode(encoding), ".html").text == f"{word} for everybody"


def test_html_byte_order_mark_wins_over_declaration():
    pytest.importorskip("trafilatura")
    page = '<meta charset="utf-8"><p>naïve page</p>'
    assert parse(page.encode("utf-16"), ".html").text == "naïve page"


@pytest.mark.parametrize(
    "page", [b"<p>caf\xe9</p>", b'<meta charset="utf-8"><p>\xff</p>', b'<meta charset="klingon">x']
)
def test_html_undecodable_is_refused_with_advice(page):
    pytest.importorskip("trafilatura")
    with pytest.raises(ParseError, match=r"HTML that cannot be decoded as .*declare its encoding in <meta charset>"):
        parse(page, ".html")


def test_lay_out_lists_tables_and_code_keep_their_lines():
    parsed = lay_out(
        "<p>one</p><p>two <pre>in(line)</pre>.</p><ul><li>a<ol><li><p>b</p></li></ol></li><li>c</li></ul>"
        "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td/></tr></table><pre>def f():\n    pass\n</pre>end<br>."
    )
    assert parsed.text == ("one\n\ntwo in(line).\n\n- a\n- b\n- c\n\n1 | 2\n3\n\ndef f():\n    pass\n\nend\n.")


def test_lay_out_broken_markup_loses_no_text():
    parsed = lay_out("</ul></pre></h1><h2>A<p>b</ul>c<h3></h3><h1>T</b></h1><td>x &lt; y &#xD800; &unknown;")
    for word in ("A", "b", "c", "T", "x < y"):
        assert word in parsed.text
    assert parsed.title == "T"
    parsed.text.encode("utf-8")


def test_docx_headings_and_paragraphs():
    pytest.importorskip("mammoth")
    data = docx([("Title", "Hand_book"), ("heading 1", "Refunds"), ("", "Ask 1. us *now*."), ("heading 2", "How")])
    parsed = parse(data, ".docx")
    assert parsed.text == "Hand_book\n\nRefunds\n\nAsk 1. us *now*.\n\nHow"
    assert parsed.title == "Hand_book"
    assert [heading.level for heading in parsed.headings] == [1, 1, 2]
    assert_headings_stand_where_they_say(parsed, ["Hand_book", "Refunds", "How"])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"plain text"])
def test_docx_damaged_is_refused_with_advice(data):
    pytest.importorskip("mammoth")
    with pytest.raises(ParseError, match=r"not readable as .docx .*save it again"):
        parse(data, ".docx")


def test_pdf_pages_are_headings_at_their_first_character():
    pytest.importorskip("pypdfium2")
    parsed = parse(pdf(["First page text", "", "Third page text"], title="The  manual"), ".pdf")
    assert parsed.text == "First page text\n\n\n\nThird page text"
    assert parsed.title == "The manual"
    assert [heading.title for heading in parsed.headings] == ["page 1", "page 2", "page 3"]
    assert parsed.text[parsed.headings[2].start :] == "Third page text"


def test_pdf_without_text_is_refused_with_advice():
    pytest.importorskip("pypdfium2")
    with pytest.raises(ParseError, match="no text on its 2 pages; scanned pages need character recognition"):
        parse(pdf(["", ""]), ".pdf")


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4 cut off", b"text"])
def test_pdf_damaged_is_refused_with_advice(data):
    pytest.importorskip("pypdfium2")
    with pytest.raises(ParseError, match=r"not a PDF that can be opened .*repair it, or remove its password"):
        parse(data, ".pdf")
