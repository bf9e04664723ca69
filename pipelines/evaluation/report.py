"""Results and sweeps on one page, for people: HTML that needs nothing else, and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import SourceError, TerminalError
from pipelines.evaluation.measures import METRICS
from pipelines.evaluation.report_evaluation import EvaluationSection
from pipelines.evaluation.report_queries import QueryChoice, query_groups, read_texts, shown_documents
from pipelines.evaluation.report_records import Page, Section
from pipelines.evaluation.report_sweep import sweep_section
from pipelines.evaluation.result_files import read_results
from pipelines.evaluation.sweep_files import read_sweep

if TYPE_CHECKING:
    from pipelines.evaluation.results import EvaluationResult
    from pipelines.evaluation.sweep_records import SweepResult
    from pipelines.evaluation.systems import System

QUERIES = 5
"""Shown per group."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        metric: By which queries are chosen and systems set against each other.
        against: Name of the system that stands beside the one asked about in scatter, buckets and queries; None takes
            the best of the others.
        queries: Shown per group; 0 shows none.
        data: Folders of data sets in BEIR's layout, for the texts of the documents shown.
    """

    metric: str = METRICS[0]
    against: str | None = None
    queries: int = QUERIES
    data: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise TerminalError(f"no metric {self.metric!r}; there are {', '.join(METRICS)}")


@dataclass(frozen=True, slots=True)
class Findings:
    """What a report is made of.

    Attributes:
        results: Evaluations; those of the same queries are one.
        sweeps: Sweeps.
    """

    results: tuple[EvaluationResult, ...] = ()
    sweeps: tuple[SweepResult, ...] = ()


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where a report lies.

    Attributes:
        html: The page.
        markdown: The same in Markdown.
        page: What is on it.
    """

    html: Path
    markdown: Path
    page: Page = field(repr=False)


def read_findings(folders: Sequence[str | Path]) -> Findings:
    """Read folders that `kvembed evaluate` and `kvembed sweep` wrote.

    Evaluations of the same data set, queries and judgements become one, whose systems stand side by side; a system
    whose name is taken is called after its folder too. The first folder's first system is the one asked about.

    Raises:
        SourceError: a folder holds neither, or is damaged.
    """
    results: list[EvaluationResult] = []
    sweeps = []
    for folder in map(Path, folders):
        if (folder.expanduser() / "sweep.json").is_file():
            sweeps.append(read_sweep(folder))
            continue
        read = _evaluation(folder)
        place = next((place for place, one in enumerate(results) if _same_queries(one, read)), None)
        if place is None:
            results.append(read)
        else:
            results[place] = _side_by_side(results[place], read, folder.expanduser().resolve().name)
    return Findings(tuple(results), tuple(sweeps))


def make_report(findings: Findings, options: ReportOptions | None = None) -> Page:
    """Turn findings into a page; of documents, only the texts of those shown are held.

    Raises:
        TerminalError: there is nothing to report, or no system of the name asked for.
        SourceError: the data given are of another data set.
    """
    chosen = options or ReportOptions()
    if not findings.results and not findings.sweeps:
        raise TerminalError("a report needs at least one result of `kvembed evaluate` or `kvembed sweep`")
    corpora = _corpora(findings.results, chosen.data)
    sections = [
        _section(f"evaluation-{number}", result, chosen, corpora.get(result.dataset))
        for number, result in enumerate(findings.results, start=1)
    ]
    sections += [sweep_section(f"sweep-{number}", sweep) for number, sweep in enumerate(findings.sweeps, start=1)]
    names = dict.fromkeys([*(one.dataset for one in findings.results), *(one.dataset for one in findings.sweeps)])
    return Page(f"Evaluation: {', '.join(names)}", chosen.metric, tuple(sections))


def check_report_output(path: str | Path) -> Path:
    """Find out before the work whether a page can be written there.

    Raises:
        TerminalError: it is not named as a page, or its folder cannot be written to.
    """
    page = Path(path).expanduser()
    if page.suffix.lower() != ".html":
        raise TerminalError(
            f"{page} is not named as a page; name it .html, and the Markdown gets the same name with .md"
        )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TerminalError(f"a report cannot be written to {page.parent}: {error}; choose another place") from error
    if page.is_dir():
        raise TerminalError(f"{page} is a folder; name a page in it")
    return page


def write_report(page: Page, path: str | Path) -> WrittenReport:
    """Write a page as HTML, and as Markdown beside it; equal pages are equal in every byte.

    Args:
        page: From `make_report`.
        path: Of the HTML, ending in .html.

    Raises:
        TerminalError: as `check_report_output`, or the disk is full.
    """
    from pipelines.evaluation.report_page import as_html, as_markdown

    html = check_report_output(path)
    markdown = html.with_suffix(".md")
    try:
        for place, text in ((html, as_html(page)), (markdown, as_markdown(page))):
            place.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TerminalError(f"a report cannot be written to {html}: {error}; choose another place") from error
    return WrittenReport(html, markdown, page)


def _section(name: str, result: EvaluationResult, options: ReportOptions, corpus: Path | None) -> Section:
    beside = _beside(result, options)
    choice = QueryChoice(options.metric, beside, options.queries)
    groups = query_groups(result, choice)
    if corpus is not None:
        groups = query_groups(result, choice, read_texts(corpus, shown_documents(groups)))
    return EvaluationSection(name, result, beside, options.metric, groups).section()


def _beside(result: EvaluationResult, options: ReportOptions) -> System | None:
    if options.against is not None:
        beside = result.system(options.against)
        if beside is result.main:
            raise TerminalError(f"{options.against!r} is the system asked about; set it against another")
        return beside
    return max(result.systems[1:], key=lambda system: system.estimates[options.metric].mean, default=None)


def _corpora(results: Sequence[EvaluationResult], data: Sequence[Path]) -> dict[str, Path]:
    found = {}
    known = [result.dataset for result in results]
    for folder in data:
        name = folder.expanduser().resolve().name
        if name not in known:
            raise SourceError(
                f"{folder} is data set {name!r}, of which no result is given; they are of {', '.join(known) or 'none'}"
            )
        found[name] = folder.expanduser() / "corpus.jsonl"
    return found


def _evaluation(folder: Path) -> EvaluationResult:
    try:
        return read_results(folder)
    except SourceError as error:
        if any((folder.expanduser() / name).exists() for name in ("summary.json", "run.trec")):
            raise
        raise SourceError(
            f"{folder} holds no result; give folders that `kvembed evaluate --output` or `kvembed sweep --output` wrote"
        ) from error


def _same_queries(first: EvaluationResult, second: EvaluationResult) -> bool:
    if (first.dataset, first.collection, set(first.queries)) != (
        second.dataset,
        second.collection,
        set(second.queries),
    ):
        return False
    pairs = ((query, second.queries[name]) for name, query in first.queries.items())
    return all(own.text == other.text and own.judgements == other.judgements for own, other in pairs)


def _side_by_side(first: EvaluationResult, second: EvaluationResult, folder: str) -> EvaluationResult:
    known = {(system.name, system.fingerprint): system.per_query for system in first.systems}
    new = [one for one in second.systems if known.get((one.name, one.fingerprint)) != one.per_query]
    names = {system.name.casefold() for system in first.systems}
    versions = {
        package: " and ".join(
            dict.fromkeys(one.versions[package] for one in (first, second) if package in one.versions)
        )
        for package in {**first.versions, **second.versions}
    }
    commands = dict.fromkeys([*first.command.splitlines(), *second.command.splitlines()])
    both = first.with_systems(*_renamed(new, names, folder))
    return replace(both, versions=versions, command="\n".join(commands))


def _renamed(systems: Sequence[System], taken: set[str], folder: str) -> Iterator[System]:
    suffix = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._+=,-") else "-" for sign in folder)
    for system in systems:
        name, number = system.name, 1
        while name.casefold() in taken:
            name = f"{system.name}@{suffix}" + (f"-{number}" if number > 1 else "")
            number += 1
        taken.add(name.casefold())
        yield replace(system, name=name[-100:] if len(name) > 100 else name)
