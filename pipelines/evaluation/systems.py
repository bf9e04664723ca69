"""One way of ranking: what it found, what that scored, what it took."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np

from pipelines.errors import JSON, TerminalError
from pipelines.evaluation.measures import METRICS, score
from pipelines.evaluation.queries import JudgedQuery
from pipelines.evaluation.statistics import Estimate, bootstrap

Ranking: TypeAlias = tuple[tuple[str, float], ...]
"""(Document id, score), best first, no document twice."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]{0,99}")


@dataclass(frozen=True, slots=True)
class CostFigures:
    """What a system took; what does not apply to it is 0 or None.

    Attributes:
        chunks: Units that were indexed.
        documents_quarantined: Documents that could not be indexed.
        tokens: Document tokens that went through the model, prompts included.
        query_tokens: The same of the queries.
        truncated_chunks: Chunks of which something was cut.
        truncated_queries: Queries of which something was cut.
        peak_memory_bytes: Largest resident memory of the process meanwhile, the model and Python included.
        peak_device_memory_bytes: Largest memory taken on the accelerator meanwhile.
        seconds: Stage -> seconds; "embed" is the documents' forward passes, "encode_queries" the queries', "rank" the
            search.
    """

    chunks: int = 0
    documents_quarantined: int = 0
    tokens: int = 0
    query_tokens: int = 0
    truncated_chunks: int = 0
    truncated_queries: int = 0
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """Document tokens, prompts included, per second of embedding; None where nothing was embedded."""
        seconds = self.seconds.get("embed", 0.0)
        return self.tokens / seconds if self.tokens and seconds else None

    @property
    def truncation_rate(self) -> float | None:
        """Share of chunks of which something was cut; None without chunks."""
        return self.truncated_chunks / self.chunks if self.chunks else None

    def to_dict(self) -> dict[str, JSON]:
        """Return everything as JSON values, with what follows from it."""
        return {
            **asdict(self),
            "seconds": dict(self.seconds),
            "tokens_per_second": self.tokens_per_second,
            "truncation_rate": self.truncation_rate,
        }


@dataclass(frozen=True, slots=True)
class System:
    """One way of ranking, with what it scored and took.

    Attributes:
        name: Of letters, digits and ``. _ + = , @ -``; names its folder and its lines in a run file.
        rankings: Query id -> ranking; a query may have an empty one.
        per_query: Query id -> metric -> value in 0..1, for every query that counts.
        estimates: Metric -> mean over the queries with its interval.
        identity: Configuration in full: of an encoder `KVEncoder.identity()`, hashes included.
        fingerprint: Hash of the identity, of an encoder its own.
        chunking: How documents were cut; empty where they were not.
        figures: What it took.
        layer_profile: `DimensionProfile.to_dict()` where the layers were chosen by it.
    """

    name: str
    rankings: Mapping[str, Ranking]
    per_query: Mapping[str, Mapping[str, float]]
    estimates: Mapping[str, Estimate]
    identity: Mapping[str, JSON] = field(default_factory=dict)
    fingerprint: str = ""
    chunking: Mapping[str, JSON] = field(default_factory=dict)
    figures: CostFigures = field(default_factory=CostFigures)
    layer_profile: Mapping[str, JSON] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise TerminalError(
                f"a system's name is {self.name!r}; it must begin with a letter or digit and have letters, digits and "
                ". _ + = , @ - only, at most 100"
            )

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> mean over the queries."""
        return {name: estimate.mean for name, estimate in self.estimates.items()}


def scored_system(
    name: str,
    queries: Mapping[str, JudgedQuery],
    rankings: Mapping[str, Ranking],
    *,
    identity: Mapping[str, JSON],
    fingerprint: str = "",
    chunking: Mapping[str, JSON] | None = None,
    figures: CostFigures | None = None,
    layer_profile: Mapping[str, JSON] | None = None,
) -> System:
    """Score rankings and estimate their means.

    Args:
        name: As `System.name`.
        queries: Query id -> judged query, all that count.
        rankings: Query id -> ranking, as `EvaluationTask.ranked` makes them.
        identity: As `System.identity`.
        fingerprint: As `System.fingerprint`.
        chunking: As `System.chunking`.
        figures: As `System.figures`.
        layer_profile: As `System.layer_profile`.

    Raises:
        TerminalError: ranx is not installed, or the name is not legal.
    """
    ordered = {query: tuple(rankings.get(query, ())) for query in queries}
    per_query = score(
        {query.id: query.judgements for query in queries.values()},
        {query: [document for document, _ in ranking] for query, ranking in ordered.items()},
    )
    return System(
        name=name,
        rankings=ordered,
        per_query={query: per_query[query] for query in queries},
        estimates=estimates_of(per_query, METRICS),
        identity=identity,
        fingerprint=fingerprint,
        chunking=chunking or {},
        figures=figures or CostFigures(),
        layer_profile=layer_profile,
    )


def estimates_of(per_query: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> dict[str, Estimate]:
    """Estimate the mean of each metric over some queries; their order does not matter."""
    table = np.array([[per_query[query][name] for name in metrics] for query in sorted(per_query)])
    return dict(zip(metrics, bootstrap(table), strict=True))
