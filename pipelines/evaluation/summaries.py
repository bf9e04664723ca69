"""A result as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipelines.evaluation.buckets import LENGTHS, length_buckets
from pipelines.evaluation.comparison import compare_with_main
from pipelines.evaluation.statistics import CONFIDENCE, PERMUTATIONS, RESAMPLES, SEED

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation.results import EvaluationResult
    from pipelines.evaluation.systems import System

INTERVALS: Mapping[str, JSON] = {
    "confidence": CONFIDENCE,
    "method": "BCa bootstrap over queries",
    "resamples": RESAMPLES,
    "seed": SEED,
}
TESTS: Mapping[str, JSON] = {
    "test": "paired randomisation test, two-sided",
    "permutations": PERMUTATIONS,
    "seed": SEED,
    "correction": "Holm",
}


def summary_of(result: EvaluationResult) -> dict[str, JSON]:
    """Return everything but single queries and rankings; what summary.json holds."""
    main = result.main
    return {
        "dataset": result.dataset,
        "collection": result.collection,
        "queries": len(result.queries),
        **asdict(result.counts),
        "missing_ids": list(result.counts.missing_ids),
        "depth": result.depth,
        "metrics": main.metrics,
        "encoder": main.identity,
        "fingerprint": main.fingerprint,
        "chunking": main.chunking,
        "tokens_per_second": main.figures.tokens_per_second,
        "seconds": dict(main.figures.seconds),
        "interval": INTERVALS,
        "systems": [_system_record(system) for system in result.systems],
        "comparison": TESTS,
        "comparisons": [comparison.to_dict() for comparison in compare_with_main(result)],
        "buckets": {length: [bucket.to_dict() for bucket in length_buckets(result, length)] for length in LENGTHS},
        "versions": dict(result.versions),
        "command": result.command,
    }


def record_of(result: EvaluationResult) -> dict[str, JSON]:
    """Return the summary, and each query's values under the system asked about; what `--json` prints."""
    return {
        **summary_of(result),
        "per_query": {query: dict(values) for query, values in result.main.per_query.items()},
    }


def _system_record(system: System) -> dict[str, JSON]:
    return {
        "name": system.name,
        "metrics": {name: asdict(estimate) for name, estimate in system.estimates.items()},
        "identity": system.identity,
        "fingerprint": system.fingerprint,
        "chunking": system.chunking,
        "figures": system.figures.to_dict(),
        "layer_profile": system.layer_profile,
    }
