"""Queries put to a collection, with what that took."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from pipelines.evaluation.ranking import top_documents
from pipelines.evaluation.systems import CostFigures, Ranking

if TYPE_CHECKING:
    from qdrant_client import models

    from pipelines.evaluation.memory import PeakMemory
    from pipelines.pinned import PinnedCollection
    from pipelines.report import IngestReport, Progress

_PACKAGES = ("kvembed", "torch", "transformers", "tokenizers", "numpy", "qdrant-client", "ranx", "bm25s", "PyStemmer")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a collection answered.

    Attributes:
        rankings: Documents by their best chunk, a ranking per query.
        tokens: Of all queries, prompts included.
        truncated: Queries of which something was cut.
        seconds: "encode_queries" and "rank".
    """

    rankings: tuple[Ranking, ...]
    tokens: int
    truncated: int
    seconds: dict[str, float]


def ask(
    pinned: PinnedCollection,
    texts: Sequence[str],
    limit: int,
    *,
    search_params: models.SearchParams | None = None,
    progress: Progress | None = None,
) -> Answers:
    """Embed queries with the collection's own encoder and rank its documents for each.

    Args:
        pinned: The collection and its encoder.
        texts: Queries.
        limit: Documents per query.
        search_params: As `top_documents`.
        progress: Told of the stage "search".
    """
    started = time.perf_counter()
    encoded = pinned.encoder.encode_counted(list(texts), "query")
    embedded = time.perf_counter()
    rankings = []
    for done, vector in enumerate(encoded.vectors, start=1):
        rankings.append(tuple(top_documents(pinned.store, pinned.physical, vector, limit, search_params)))
        if progress is not None:
            progress("search", done, len(texts))
    return Answers(
        rankings=tuple(rankings),
        tokens=int(encoded.tokens.sum()),
        truncated=int((encoded.truncated_tokens > 0).sum()),
        seconds={"encode_queries": embedded - started, "rank": time.perf_counter() - embedded},
    )


def cost_of(answers: Answers, peak: PeakMemory, report: IngestReport | None = None) -> CostFigures:
    """Sum up what asking took, and filling the collection where that was part of it."""
    asked = CostFigures(
        query_tokens=answers.tokens,
        truncated_queries=answers.truncated,
        peak_memory_bytes=peak.process,
        peak_device_memory_bytes=peak.device,
        seconds=answers.seconds,
    )
    if report is None:
        return asked
    return replace(
        asked,
        chunks=report.chunks_embedded,
        documents_quarantined=report.documents_quarantined,
        tokens=report.tokens,
        truncated_chunks=report.truncated_chunks,
        seconds={**report.seconds, **answers.seconds},
    )


def package_versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that a figure depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
