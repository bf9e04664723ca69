"""What a report's page is put together from: drawings, escaped texts, colours."""

from __future__ import annotations

import importlib.resources
import re

import lxml.html
import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipelines.evaluation.report_charts import Row, bar_chart, dot_chart, scatter_chart, window_chart
from pipelines.evaluation.report_page import in_code, in_markdown
from pipelines.evaluation.report_svg import INK, VARIABLES, draw_svg
from pipelines.evaluation.report_words import p_value, plain, shown, signed
from pipelines.evaluation.statistics import Estimate
from tests.pipelines.reports import strictly

CSS = (importlib.resources.files("pipelines.evaluation") / "report_templates" / "report.css").read_text()
PUNCTUATION = st.text(alphabet=st.sampled_from("\\`*_{}[]()<>#+-.!|~&:;@$^=1a \t\n/\"'"), max_size=30)


def schemes() -> dict[str, dict[str, str]]:
    """Scheme -> variable -> colour, as the page's own style has them."""
    light, dark = re.findall(r":root \{([^}]*)\}", CSS)
    colours = [dict(re.findall(r"--(\w+): (#\w{6});", text)) for text in (light, dark)]
    return {"light": colours[0], "dark": {**colours[0], **colours[1]}}


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, definition of contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(luminance(colour) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_paper(scheme: str):
    """AA: 4.5 for text, 3 for what a drawing is made of."""
    colours = schemes()[scheme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in ("ink", "muted", "main", "beside", "good"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("other", "mark"):
        assert contrast(colours[name], colours["paper"]) >= 3, name
    assert contrast(colours["ink"], colours["sheet"]) >= 4.5
    assert set(VARIABLES.values()) <= set(colours)
    if scheme == "dark":
        assert all(colours[name] != schemes()["light"][name] for name in VARIABLES.values())


def test_drawing_with_a_colour_of_its_own_is_refused():
    """It would be the same in light and dark."""
    with pytest.raises(ValueError, match="has the colour #123456, which is none of the page's"):
        draw_svg("a", "A drawing", 50, lambda figure: figure.subplots().plot([0, 1], color="#123456"))


def test_drawing_text_stays_text_in_the_pages_font_and_colours():
    drawn = draw_svg("a", 'A <b> & "c"', 50, lambda figure: figure.text(0.5, 0.5, "a < $b$", color=INK) and None)
    assert re.findall("<text[^>]*>([^<]*)</text>", drawn) == ["a &lt; $b$"]
    assert "var(--ink)" in drawn
    assert not re.search('font-family|#[0-9a-f]{6}|<metadata|<style|xmlns|width="360', drawn)
    assert lxml.html.fromstring(drawn).find("title").text == 'A <b> & "c"'


def test_drawing_is_the_same_under_a_style_of_the_users_own():
    """A matplotlibrc in the home folder, or a notebook's dark style."""
    rows = [Row("a", Estimate(0.5, 0.4, 0.6), True)]
    plain_style = bar_chart("one", "Bars", rows)
    own = {"font.size": 30, "axes.edgecolor": "red", "patch.edgecolor": "red", "axes.grid": True, "lines.linewidth": 9}
    with matplotlib.rc_context(own):
        assert bar_chart("one", "Bars", rows) == plain_style
        assert matplotlib.rcParams["font.size"] == 30


def test_drawings_share_no_id():
    rows = [Row("a", Estimate(0.5, 0.4, 0.6), True), Row("b" * 90, Estimate(0.4, 0.4, 0.4))]
    pairs = [(0.0, 0.5), (0.5, 0.5), (0.0, 0.5), (1.0, 0.0)]
    drawn = [
        bar_chart("one", "Bars", rows),
        bar_chart("two", "Bars", rows),
        dot_chart("three", "Dots", rows, line=0.5, xlabel="x"),
        scatter_chart("four", "Points", pairs, ("a", "b")),
        window_chart("five", "Windows", rows, rows[0].estimate, "ndcg@10"),
    ]
    page = strictly("".join(drawn))
    assert len(set(page.ids)) == len(page.ids)
    assert all(reference[1:] in page.ids for reference in page.references)
    assert "b" * 23 + "…" in drawn[0]
    assert "b" * 24 not in drawn[0]


def test_drawing_of_a_label_that_xml_cannot_hold_replaces_it():
    row = Row("\x1b[2J\ud800\u202e$x$", Estimate(0.5, 0.4, 0.6))
    for drawn in (bar_chart("a", row.label, [row]), dot_chart("b", row.label, [row], line=0.0, xlabel=row.label)):
        assert drawn.count("\ufffd[2J\ufffd$x$") >= 2
        strictly(drawn)


def test_bars_are_as_long_as_their_means_and_begin_at_0():
    drawn = bar_chart("one", "Bars", [Row("a", Estimate(0.5, 0.4, 0.6), True), Row("b", Estimate(0.25, 0.2, 0.3))])
    bars = []
    for colour in ("main", "other"):
        path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)"', drawn)
        assert path is not None
        bars.append([float(number) for number in re.findall(r"[ML] ([\d.]+)", path[1])])
    zero = re.search(r'<text [^>]*x="([\d.]+)"[^>]*>0\.0</text>', drawn)
    assert zero is not None
    assert min(bars[0]) == min(bars[1]) == pytest.approx(float(zero[1]), abs=0.01)
    assert (max(bars[0]) - min(bars[0])) == pytest.approx(2 * (max(bars[1]) - min(bars[1])), rel=1e-4)


@pytest.mark.parametrize(
    "text", ["# a", "- a", "1. a", "+ a", "a | b", "<b>", "&amp;", "[a](b)", "a\\", "`a`", "~~a~~", "12) b", "= a"]
)
def test_markdown_of_a_text_is_the_text(text: str):
    check_markdown(text)


@given(st.text(max_size=30) | PUNCTUATION)
def test_markdown_of_any_text_is_the_text(text: str):
    check_markdown(text)


def check_markdown(text: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    cell = lxml.html.fromstring(parser.render(f"| a |\n| :-- |\n| {in_markdown(text)} |\n"))
    (found,) = cell.xpath("//tbody/tr/td")
    assert found.text_content() == lxml_text(shown(text))
    assert len(found) == 0
    item = lxml.html.fromstring(parser.render(f"- {in_markdown(text)}\n"))
    assert item.text_content().strip() == lxml_text(shown(text)).strip()
    assert {one.tag for one in item.iter()} <= {"ul", "li"}


def lxml_text(text: str) -> str:
    """The text as it comes back from an HTML parser when it is escaped by another hand."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return lxml.html.fromstring(f"<p>{escaped}</p>").text_content()


@given(st.text(alphabet=st.sampled_from("`a b|<*\\"), max_size=20))
def test_code_in_markdown_of_any_text_is_the_text(text: str):
    (token,) = (one for one in MarkdownIt("commonmark").parse(f"- x {in_code(text)}\n") if one.type == "inline")
    codes = [child.content for child in token.children or [] if child.type == "code_inline"]
    assert codes == ([shown(text)] if shown(text) else [])


@given(st.text(max_size=60))
def test_shown_text_is_one_line_that_can_be_written(text: str):
    found = shown(text, 40)
    assert len(found) <= 40
    assert len(found.splitlines()) <= 1
    assert found.encode("utf-8")[:0] == b""
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", found)


def test_shown_half_a_character_is_replaced():
    """JSON may hold it, and UTF-8 cannot."""
    assert shown("a\ud800b\u202ec\x1b[2J\n d") == "a\ufffdbc\ufffd[2J d"


def test_numbers_are_written_for_people():
    assert [signed(value) for value in (0.12345, -0.12345, -0.00001, 0.0)] == ["+0.1235", "−0.1235", "0.0000", "0.0000"]
    assert signed(0.5, 3, "") == "0.500"
    assert [p_value(value) for value in (1.0, 0.05, 0.00002)] == ["1.0000", "0.0500", "<0.0001"]
    assert [plain(value) for value in (None, [], True, [1, 2], {"a": [1]}, "x")] == [
        "none",
        "none",
        "yes",
        "1, 2",
        '{"a": [1]}',
        "x",
    ]


def test_style_opens_what_is_folded_when_printed():
    printed = CSS[CSS.index("@media print") :]
    assert "details::details-content { content-visibility: visible;" in printed
    assert CSS.index("prefers-color-scheme") < CSS.index("@media print")
    assert "@media screen and (prefers-color-scheme: dark)" in CSS, "paper is light"
