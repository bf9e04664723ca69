"""The queries that tell most: where a system finds least and most, and where two systems part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.beir import read_corpus
from pipelines.errors import SourceError
from pipelines.evaluation.report_records import Found, QueryGroup, ShownQuery

if TYPE_CHECKING:
    from pipelines.evaluation.results import EvaluationResult
    from pipelines.evaluation.systems import System

_FOUND, _WANTED = 3, 3
_BEGINNING = 280
"""Characters of a document that are shown."""


@dataclass(frozen=True, slots=True)
class QueryChoice:
    """Which queries to show.

    Attributes:
        metric: By which they are chosen.
        beside: System that the one asked about is set against; None without one.
        count: Queries per group.
    """

    metric: str
    beside: System | None
    count: int


def query_groups(
    result: EvaluationResult, choice: QueryChoice, texts: Mapping[str, str] | None = None
) -> tuple[QueryGroup, ...]:
    """Choose queries and put what was found beside what was wanted.

    Equal values are told apart by the place of the first relevant document, then by the order of the data set.

    Args:
        result: Whose first system is asked about.
        choice: Which and how many.
        texts: Document id -> text, of documents that may be shown; others are shown by their id.
    """
    return tuple(
        QueryGroup(title, tuple(_shown(result, choice, query, texts or {}) for query in queries))
        for title, queries in _chosen(result, choice)
        if queries
    )


def shown_documents(groups: Iterable[QueryGroup]) -> frozenset[str]:
    """Return the ids of the documents in these groups."""
    queries = (query for group in groups for query in group.queries)
    return frozenset(found.id for query in queries for found in (*query.found, *query.wanted))


def read_texts(corpus: Path, wanted: frozenset[str]) -> dict[str, str]:
    """Read the beginnings of some documents, the corpus streamed.

    Args:
        corpus: A corpus.jsonl.
        wanted: Ids.

    Raises:
        SourceError: it has none of them, or is no such file.
    """
    try:
        found = {name: _beginning(text) for name, text in read_corpus(corpus) if name in wanted}
    except OSError as error:
        raise SourceError(f"{corpus} cannot be read: {error}; give the data set's folder") from error
    if wanted and not found:
        raise SourceError(
            f"{corpus} has none of the {len(wanted)} documents to be shown, such as {min(wanted)!r}; "
            "give the folder that was evaluated"
        )
    return found


def _beginning(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _BEGINNING else f"{words[: _BEGINNING - 1].rstrip()}…"


def _chosen(result: EvaluationResult, choice: QueryChoice) -> Iterator[tuple[str, list[str]]]:
    main, count = result.main, choice.count
    values = {query: main.per_query[query][choice.metric] for query in result.queries}
    places = {query: result.first_relevant_rank(main, query) or result.depth + 1 for query in result.queries}
    rising = sorted(values, key=lambda query: (values[query], -places[query]))
    yield f"{main.name}: worst", rising[:count]
    falling = sorted(values, key=lambda query: (-values[query], places[query], -_relevant(result, query)))
    yield (
        f"{main.name}: best",
        [query for query in falling[:count] if values[query] > 0 and query not in rising[:count]],
    )
    if choice.beside is None:
        return
    gains = {query: values[query] - choice.beside.per_query[query][choice.metric] for query in values}
    for words, sign in (("behind", 1), ("ahead of", -1)):
        apart = [query for query in sorted(gains, key=lambda query: sign * gains[query]) if sign * gains[query] < 0]
        yield f"{main.name} furthest {words} {choice.beside.name}", apart[:count]


def _shown(result: EvaluationResult, choice: QueryChoice, query: str, texts: Mapping[str, str]) -> ShownQuery:
    judged, main, beside = result.queries[query], result.main, choice.beside
    places = _places(main, query)
    others = _places(beside, query) if beside is not None else {}

    def found(name: str) -> Found:
        return Found(name, places.get(name), others.get(name), judged.judgements.get(name), texts.get(name, ""))

    first = [name for name, _ in main.rankings[query][:_FOUND]]
    wanted = [name for name, grade in judged.judgements.items() if grade > 0 and name not in first]
    wanted.sort(key=lambda name: places.get(name, len(places) + 1))
    return ShownQuery(
        id=judged.id,
        text=judged.text,
        value=main.per_query[query][choice.metric],
        beside=None if beside is None else beside.per_query[query][choice.metric],
        found=tuple(found(name) for name in first),
        wanted=tuple(found(name) for name in wanted[:_WANTED]),
        relevant=_relevant(result, query),
    )


def _places(system: System, query: str) -> dict[str, int]:
    return {name: place for place, (name, _) in enumerate(system.rankings[query], start=1)}


def _relevant(result: EvaluationResult, query: str) -> int:
    return sum(grade > 0 for grade in result.queries[query].judgements.values())
