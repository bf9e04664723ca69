"""Pairs to learn from: something a person might ask, and the passage it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo_training.tokens import TokenCorpus

Tokens = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class PairStyle:
    """How queries and passages are drawn from an article."""

    query_tokens: int = 48
    """Longest query."""
    passage_tokens: tuple[int, int] = (48, 256)
    """Shortest and longest passage; the length of each is drawn log-uniformly."""
    title_queries: float = 0.2
    """Share of queries that are the title alone."""
    keyword_queries: float = 0.25
    """Share of queries that are a few tokens out of a sentence; the rest are sentences."""
    dropped: float = 0.15
    """Share of query tokens left out, so that copying words is not all there is to learn."""


def draw_pair(
    corpus: TokenCorpus, article: int, style: PairStyle, random: np.random.Generator
) -> tuple[Tokens, Tokens]:
    """Draw one query and a passage of the same article that does not contain its sentence.

    Returns:
        (Tq,) and (Tp,) tokens, neither of them empty.
    """
    title = int(corpus.articles[article])
    first, last = title + 1, int(corpus.articles[article + 1])
    has_title = corpus.sentences[first] > corpus.sentences[title]
    source = int(random.integers(first, last))
    if has_title and random.random() < style.title_queries:
        source = title
    query = _query(corpus.sentence(source), style, random, whole=source == title)
    shortest, longest = style.passage_tokens
    budget = int(shortest * (longest / shortest) ** random.random())
    passage = _passage(corpus, (first, last), source, budget, random)
    if has_title and source != title and random.random() < 0.5:
        passage = np.concatenate([corpus.sentence(title), passage])
    return query, passage[:longest]


def _query(sentence: Tokens, style: PairStyle, random: np.random.Generator, *, whole: bool) -> Tokens:
    query = sentence[: style.query_tokens]
    if whole:
        return query
    if len(query) > 6 and random.random() < style.keyword_queries:
        length = int(random.integers(3, 11))
        start = int(random.integers(0, max(1, len(query) - length + 1)))
        return query[start : start + length]
    kept = query[random.random(len(query)) >= style.dropped]
    return kept if len(kept) else query


def _passage(
    corpus: TokenCorpus,
    body: tuple[int, int],
    source: int,
    budget: int,
    random: np.random.Generator,
) -> Tokens:
    """Sentences in a row from a random one on, the source left out, wrapped at the end."""
    first, last = body
    start = int(random.integers(first, last))
    order = [*range(start, last), *range(first, start)]
    taken: list[Tokens] = []
    size = 0
    for index in order:
        if index == source:
            continue
        taken.append(corpus.sentence(index))
        size += len(taken[-1])
        if size >= budget:
            break
    return np.concatenate(taken) if taken else corpus.sentence(source)
