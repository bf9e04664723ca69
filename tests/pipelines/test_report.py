"""The report's page: what a browser, a screen reader and a careful reader rely on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import lxml.html
import pytest
from markdown_it import MarkdownIt

from pipelines import SourceError, TerminalError
from pipelines.evaluation import EvaluationResult, JudgedQuery, compare_with_main, write_results
from pipelines.evaluation.report import Findings, ReportOptions, make_report, read_findings, write_report
from pipelines.evaluation.report_page import as_html, as_markdown
from pipelines.evaluation.report_queries import QueryChoice, query_groups
from pipelines.evaluation.sweep_records import SweepResult
from tests.pipelines.evaluations import small_result
from tests.pipelines.reports import strictly, tables
from tests.pipelines.sweeps import small_sweep

HOSTILE = (
    "</title></style></svg>\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
    "{{ 7*7 }}{% raw %}$x$|`*a*`\n# b\x1b[2J\u202e"
)
PROFILE = {
    "dimensions": [9.0, 8.0, 7.5],
    "intervals": [[8.0, 10.0], [7.0, 9.0], [7.0, 8.0]],
    "layers": [2],
    "rivals": [1],
    "first_candidate": 1,
    "texts": 100,
    "estimator": "TwoNN",
}


def full_result() -> EvaluationResult:
    found = small_result("kv-rerouting", "bm25", "mean")
    main = dataclasses.replace(found.main, layer_profile=PROFILE)
    return dataclasses.replace(found, systems=(main, *found.systems[1:]), command="kvembed evaluate small\n")


def full_sweep() -> SweepResult:
    sweep = small_sweep()
    none = dataclasses.replace(sweep.axes[1].points[0], label="none", value=[])
    window = dataclasses.replace(sweep.axes[1], points=(none, *sweep.axes[1].points))
    pooling = dataclasses.replace(sweep.axes[0], axis="pooling")
    return dataclasses.replace(sweep, axes=(sweep.axes[0], window, pooling), command="kvembed sweep small")


@pytest.fixture(scope="module")
def html() -> str:
    return as_html(make_report(Findings((full_result(),), (full_sweep(),))))


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = write_results(full_result(), tmp_path_factory.mktemp("results") / "small")
    return json.loads((folder / "summary.json").read_text())


def test_page_is_one_whole_file_that_asks_for_nothing_else(html: str):
    page = strictly(html)
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert len(set(page.ids)) == len(page.ids)
    assert page.references
    assert {reference for reference in page.references if reference[1:] not in page.ids} == set()
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.seen}
    policy = next(attributes for tag, attributes in page.seen if attributes.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    used = re.findall(r"url\(([^)]*)\)", html) + re.findall(r"@import|https?:", html)
    assert all(target[1:] in page.ids for target in used)


def test_page_can_be_read_without_seeing_it(html: str):
    page = lxml.html.fromstring(html)
    drawings = list(page.iter("svg"))
    assert len(drawings) == 8 + 1 + 1 + 2 + 1 + 3 + 1
    for drawing in drawings:
        assert drawing.get("role") == "img"
        title = drawing.get_element_by_id(drawing.get("aria-labelledby"))
        assert len(title.text) > 20
        assert drawing.getparent().tag == "figure"
        assert drawing.getparent().find("figcaption").text_content()
        assert not drawing.xpath(".//@width[not(parent::rect)] | .//*[contains(@style, 'font-family')]")
    for table in page.iter("table"):
        assert table.find("caption").text_content()
        assert {cell.get("scope") for cell in table.iter("th")} == {"col", "row"}
        assert table.getparent().get("tabindex") == "0"
    levels = [int(heading.tag[1]) for heading in page.iter("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_page_numbers_are_the_summarys(html: str, summary: dict):
    found = tables(html)
    means = found["Means over 12 queries, and their 95 % intervals"]
    for row, system in zip(means[1:], summary["systems"], strict=True):
        assert row[0] == system["name"]
        for metric, cell in zip(means[0][1:], row[1:], strict=True):
            one = system["metrics"][metric]
            assert cell == f"{one['mean']:.4f} {one['low']:.4f} to {one['high']:.4f}"
    for comparison in summary["comparisons"]:
        for metric, one in comparison["metrics"].items():
            rows = found[f"kv-rerouting less each other system, {metric}"]
            row = next(row for row in rows if row[0] == comparison["first"])
            numbers = [float(cell.replace("−", "-")) for cell in (*row[1:4], *row[5:])]
            expected = [one["first"], one["second"], one["difference"]["mean"], one["p_value"], one["p_corrected"]]
            assert numbers == pytest.approx(expected, abs=5.1e-5)
    for length, words in (("tokens", "the query"), ("relevant_tokens", "the relevant documents")):
        for row, bucket in zip(found[f"ndcg@10 by length of {words}"][1:], summary["buckets"][length], strict=True):
            assert row[:2] == [f"{bucket['low']:,.0f}–{bucket['high']:,.0f}", str(bucket["queries"])]
            assert row[2].startswith(f"{bucket['systems']['kv-rerouting']['ndcg@10']['mean']:.4f} ")
    figures = found["What each system took"][1]
    assert figures == ["kv-rerouting", "9", "900", "600", "3 (33.3%)", "0", "256", "–"]
    assert ["fingerprint", "f" * 64] in found["kv-rerouting"]
    assert ["layers", "2, 3"] in found["kv-rerouting"]
    assert found["Versions"][1] == ["python", "3.11"]
    assert "kvembed evaluate small" in html


def test_page_drawn_values_are_the_estimates(html: str):
    """What stands beside the bars and what is read out of them."""
    result = full_result()
    drawing = lxml.html.fromstring(html).get_element_by_id("evaluation-1-means-ndcg-10-title").getparent()
    written = [text.text for text in drawing.iter("text")]
    for system in result.systems:
        one = system.estimates["ndcg@10"]
        assert system.name in written
        assert f"{one.mean:.3f}" in written
        assert f"{system.name} {one.mean:.3f} ({one.low:.3f} to {one.high:.3f})" in drawing.find("title").text


@pytest.mark.parametrize(
    ("count", "main", "expected"), [(12, "bm25", ["main", "other"]), (6, "kv-rerouting", ["other"] * 2)]
)
def test_differences_are_in_colour_where_holm_leaves_them_below_a_twentieth(count: int, main: str, expected: list[str]):
    """p values not yet corrected would colour what may be chance: with 6 queries both are below, corrected neither."""
    result = small_result("kv-rerouting", "bm25", "mean", count=count).led_by(main)
    metrics = [next(one for one in found.metrics if one.metric == "ndcg@10") for found in compare_with_main(result)]
    assert min(one.p_value for one in metrics) < 0.05
    assert [one.p_corrected < 0.05 for one in metrics] == [colour == "main" for colour in expected]
    page = make_report(Findings((result,)), ReportOptions(queries=0))
    chart = next(block for block in page.sections[0].blocks if block.title == "Differences").charts[0]
    assert re.findall(r"<use [^>]*fill: var\(--(main|other)\)", chart.svg) == expected


def test_page_shows_a_sweep_axis_by_axis(html: str):
    words = " ".join(lxml.html.fromstring(html).get_element_by_id("sweep-1").text_content().split())
    assert "Sweep of small, a subset (2 of 4 queries, 8 of 80 documents)" in words
    assert "TwoNN's window 2 is number 1 of 2 by ndcg@10 (95 %: 1 to 2) and beats 100 % of the others." in words
    assert "hindsight flatters by 0.0500. Chosen: 2 (7 times), 1 (3 times)." in words
    found = tables(html)
    assert found["ndcg@10 by prefix bias"][2][:2] == ["2", "0.6000 0.5000 to 0.7000"]
    assert [row[0] for row in found["ndcg@10 by layer windows"][1:]] == ["none", "1", "2 (main)"]
    assert "few queries" in words
    assert "kvembed sweep small" in words


def test_page_says_what_was_found_instead_of_what_was_wanted(tmp_path: Path):
    rows = [
        {"_id": name, "title": "", "text": text}
        for name, text in (("a", "the wrong one"), ("b", "the right one " * 99))
    ]
    data = tmp_path / "small"
    data.mkdir()
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    query = JudgedQuery("q", "which one?", 3, {"b": 2, "c": 0})
    result = small_result()
    ranking = (("a", 0.9), ("c", 0.8), ("x", 0.7), ("b", 0.5))
    system = dataclasses.replace(
        result.main, rankings={"q": ranking}, per_query={"q": dict.fromkeys(result.main.estimates, 0.25)}
    )
    result = dataclasses.replace(result, queries={"q": query}, systems=(system,))
    page = make_report(Findings((result,)), ReportOptions(data=(data,)))
    shown = lxml.html.fromstring(as_html(page)).find(".//details[@class='query']")
    items = [" ".join(item.text_content().split()) for item in shown.iter("li")]
    assert items[0] == "Number 1: a, not judged the wrong one"
    assert items[1] == "Number 2: c, judged not relevant"
    assert items[2] == "Number 3: x, not judged"
    assert items[3].startswith("Number 4: b, ✓ relevant, grade 2 the right one the right")
    assert items[3].endswith("…")
    assert len(items) == 4
    assert "ndcg@10 0.2500 by kv-rerouting; 1 relevant" in " ".join(shown.text_content().split())


def test_groups_hold_the_worst_the_best_and_what_sets_two_apart():
    result = full_result()
    page = make_report(Findings((result,)), ReportOptions(metric="map@100", against="bm25", queries=3))
    groups = {group.title: group.queries for block in page.sections[0].blocks for group in block.groups}
    main, beside = ({q: s.per_query[q]["map@100"] for q in result.queries} for s in result.systems[:2])
    assert [one.value for one in groups["kv-rerouting: worst"]] == sorted(main.values())[:3]
    assert [one.value for one in groups["kv-rerouting: best"]] == sorted(main.values())[:-4:-1]
    gains = sorted(main[query] - beside[query] for query in result.queries)
    apart = [round(one.value - one.beside, 9) for one in groups["kv-rerouting furthest behind bm25"]]
    assert apart == [round(gain, 9) for gain in gains[:3]]
    apart = [round(one.value - one.beside, 9) for one in groups["kv-rerouting furthest ahead of bm25"]]
    assert apart == [round(gain, 9) for gain in gains[:-4:-1] if gain > 0]


def test_groups_of_two_systems_that_score_alike_have_nothing_that_sets_them_apart():
    result = small_result()
    alike = result.with_systems(dataclasses.replace(result.main, name="other"))
    choice = QueryChoice("ndcg@10", alike.systems[1], 3)
    assert [group.title for group in query_groups(alike, choice)] == ["kv-rerouting: worst", "kv-rerouting: best"]


@pytest.fixture(scope="module")
def hostile() -> Findings:
    """Everything that comes from data or from a command line tries to be something else."""
    result = full_result()
    first = next(iter(result.queries))
    query = dataclasses.replace(result.queries[first], text=HOSTILE, id=first)
    ranking = ((HOSTILE, 0.9), *result.main.rankings[first])
    zero = dict.fromkeys(result.main.estimates, 0.0)
    main = dataclasses.replace(
        result.main,
        rankings={**result.main.rankings, first: ranking},
        per_query={**result.main.per_query, first: zero},
        identity={HOSTILE: HOSTILE, "list": [HOSTILE]},
        fingerprint=HOSTILE,
    )
    counts = dataclasses.replace(result.counts, missing_ids=(HOSTILE,))
    result = dataclasses.replace(
        result,
        dataset=HOSTILE,
        collection=HOSTILE,
        counts=counts,
        queries={**result.queries, first: query},
        systems=(main, *result.systems[1:]),
        versions={HOSTILE: HOSTILE},
        command=HOSTILE,
    )
    sweep = full_sweep()
    points = tuple(
        dataclasses.replace(point, label=f"{HOSTILE}{place}") for place, point in enumerate(sweep.axes[2].points)
    )
    axis = dataclasses.replace(sweep.axes[2], points=points, main=f"{HOSTILE}0", best=HOSTILE)
    axis = dataclasses.replace(axis, axis="prompt", nested=dataclasses.replace(axis.nested, chosen={HOSTILE: 1}))
    sweep = dataclasses.replace(sweep, axes=(axis,), dataset=HOSTILE, warnings=(HOSTILE,))
    return Findings((result,), (sweep,))


def test_page_of_hostile_texts_shows_them_as_texts(hostile: Findings):
    html = as_html(make_report(hostile))
    page = strictly(html)
    assert not {"script", "img"} & {tag for tag, _ in page.seen}
    assert not [name for _, attributes in page.seen for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in "".join(page.words)
    assert "{{ 7*7 }}{% raw %}" in "".join(page.words)
    assert "$x$" in "".join(page.words)
    assert not set("\x1b\u202e") & set(html)
    assert {reference for reference in page.references if reference[1:] not in page.ids} == set()


def test_markdown_of_hostile_texts_shows_them_as_texts(hostile: Findings):
    markdown = as_markdown(make_report(hostile))
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    inline = [child for token in tokens for child in token.children or []]
    assert not {"html_block", "fence", "code_block"} & {token.type for token in tokens}
    assert not {"html_inline", "link_open", "image", "hardbreak"} & {token.type for token in inline}
    assert any("<script>alert(1)</script>" in token.content for token in inline if token.type == "text")
    assert not set("\x1b\u202e") & set(markdown)


def test_markdown_has_the_same_tables_as_the_page(html: str):
    markdown = as_markdown(make_report(Findings((full_result(),), (full_sweep(),))))
    rendered = lxml.html.fromstring(MarkdownIt("commonmark").enable("table").render(markdown))
    page = lxml.html.fromstring(html)

    def cells(root: lxml.html.HtmlElement) -> list[list[list[str]]]:
        return [
            [[re.sub(r"[\s()]", "", cell.text_content()) for cell in row] for row in table.iter("tr")]
            for table in root.iter("table")
        ]

    assert cells(rendered) == cells(page)
    assert [heading.text_content() for heading in rendered.iter("h1", "h2", "h3", "h4")] == [
        heading.text_content() for heading in page.iter("h1", "h2", "h3", "h4")
    ]


def test_report_of_one_plain_system_leaves_out_what_there_is_not():
    result = small_result()
    system = dataclasses.replace(
        result.main,
        rankings=dict.fromkeys(result.queries, ()),
        identity={},
        fingerprint="",
        chunking={},
        figures=dataclasses.replace(result.main.figures, chunks=0, tokens=0, peak_memory_bytes=None, seconds={}),
        per_query={query: dict.fromkeys(result.main.estimates, 0.0) for query in result.queries},
    )
    queries = {name: dataclasses.replace(query, relevant_tokens=None) for name, query in result.queries.items()}
    bare = dataclasses.replace(result, systems=(system,), queries=queries, versions={})
    page = make_report(Findings((bare,)), ReportOptions(queries=0))
    assert [block.title for block in page.sections[0].blocks] == [
        "How well",
        "By length",
        "What it took",
        "Configuration",
    ]
    strictly(as_html(page))
    as_markdown(page)
    shown = make_report(Findings((bare,)), ReportOptions(queries=2))
    assert "<li>nothing</li>" in as_html(shown)


def test_report_of_a_sweep_alone_without_choice_or_standing():
    sweep = dataclasses.replace(small_sweep(), standing=None, profile=None, overall=None, subset=None)
    page = make_report(Findings(sweeps=(sweep,)))
    assert [block.title for block in page.sections[0].blocks] == [
        "Prefix bias",
        "Layer windows",
        "Every configuration",
        "Configuration",
    ]
    strictly(as_html(page))


def test_report_of_nothing_is_refused():
    with pytest.raises(TerminalError, match="at least one result"):
        make_report(Findings())


def test_report_equal_findings_are_equal_in_every_byte(tmp_path: Path):
    """Also in another process, whose sets and dictionaries are ordered otherwise."""
    folder = write_results(full_result(), tmp_path / "small")
    code = (
        "import sys\nfrom pipelines.evaluation.report import make_report, read_findings, write_report\n"
        "write_report(make_report(read_findings([sys.argv[1]])), sys.argv[2])"
    )
    write_report(make_report(read_findings([folder])), tmp_path / "a.html")
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "b.html")]
    subprocess.run(command, check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"})
    for suffix in (".html", ".md"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_read_findings_of_the_same_queries_stand_side_by_side(tmp_path: Path):
    result = full_result()
    other = dataclasses.replace(result.led_by("bm25"), command="kvembed evaluate small --method other")
    changed = dataclasses.replace(
        other.main, per_query={query: dict.fromkeys(result.main.estimates, 1.0) for query in result.queries}
    )
    other = dataclasses.replace(other, systems=(changed, *other.systems[1:]), versions={"python": "3.12"})
    folders = [write_results(result, tmp_path / "first"), write_results(other, tmp_path / "my other one")]
    (merged,) = read_findings(folders).results
    assert [system.name for system in merged.systems] == ["kv-rerouting", "bm25", "mean", "bm25@my-other-one"]
    assert merged.versions == {"python": "3.11 and 3.12"}
    assert merged.command.splitlines() == ["kvembed evaluate small", "kvembed evaluate small --method other"]


def test_read_findings_of_other_judgements_stand_apart(tmp_path: Path):
    result = small_result()
    first = next(iter(result.queries.values()))
    queries = {**result.queries, first.id: dataclasses.replace(first, judgements={**first.judgements, "new": 1})}
    folders = [
        write_results(result, tmp_path / "a"),
        write_results(dataclasses.replace(result, queries=queries), tmp_path / "b"),
    ]
    assert len(read_findings(folders).results) == 2


def test_report_against_what_is_not_there_is_refused(tmp_path: Path):
    findings = Findings((full_result(),))
    with pytest.raises(TerminalError, match="no system 'echo' in this result; it has kv-rerouting, bm25, mean"):
        make_report(findings, ReportOptions(against="echo"))
    with pytest.raises(TerminalError, match="is the system asked about"):
        make_report(findings, ReportOptions(against="kv-rerouting"))
    with pytest.raises(SourceError, match="is data set 'other', of which no result is given; they are of small"):
        make_report(findings, ReportOptions(data=(tmp_path / "other",)))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "corpus.jsonl").write_text('{"_id": "z", "text": "z"}\n')
    with pytest.raises(SourceError, match=r"has none of the \d+ documents to be shown"):
        make_report(findings, ReportOptions(data=(tmp_path / "small",)))
