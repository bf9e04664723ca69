"""Search quality on judged queries, measured through the pipeline that users run.

Names are loaded on first use: a comparison of two results needs neither torch nor Qdrant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.evaluation.asking import Answers, ask, cost_of, package_versions
    from pipelines.evaluation.baselines import prepare_beside, same_chunks
    from pipelines.evaluation.buckets import Bucket, length_buckets
    from pipelines.evaluation.comparison import (
        Comparison,
        MetricComparison,
        compare_results,
        compare_with_main,
        configuration_differences,
    )
    from pipelines.evaluation.lexical import (
        BM25Config,
        BM25Index,
        bm25_of_chunks,
        bm25_of_collection,
        bm25_of_documents,
        require_bm25,
    )
    from pipelines.evaluation.measures import DEPTH, METRICS, require_ranx, score
    from pipelines.evaluation.memory import PeakMemory, measured_memory
    from pipelines.evaluation.queries import DatasetCounts, JudgedQuery
    from pipelines.evaluation.questions import Questions, evaluate_collection, read_questions
    from pipelines.evaluation.ranking import rank_documents, top_documents
    from pipelines.evaluation.result_files import check_output, per_query_records, read_results, write_results
    from pipelines.evaluation.results import EvaluationResult
    from pipelines.evaluation.running import encoder_system, evaluate
    from pipelines.evaluation.sentence_results import write_sentence_result
    from pipelines.evaluation.sentence_tasks import read_sentence_task
    from pipelines.evaluation.sentences import SentenceResult, evaluate_sentences
    from pipelines.evaluation.statistics import Estimate, bootstrap, holm, randomisation_test
    from pipelines.evaluation.summaries import record_of, summary_of
    from pipelines.evaluation.sweep import SweepOptions, prepare_sweep, run_sweep
    from pipelines.evaluation.sweep_files import read_sweep, write_sweep
    from pipelines.evaluation.sweep_grid import SweepPlan
    from pipelines.evaluation.sweep_records import SweepResult
    from pipelines.evaluation.system_names import BASELINES, parse_beside, system_name
    from pipelines.evaluation.systems import CostFigures, Ranking, System, estimates_of, scored_system
    from pipelines.evaluation.tasks import EvaluationTask, SystemBuilder, prepare_task
    from pipelines.evaluation.thresholds import parse_thresholds

_HOMES = {
    "Answers": "asking",
    "BASELINES": "system_names",
    "BM25Config": "lexical",
    "BM25Index": "lexical",
    "Bucket": "buckets",
    "Comparison": "comparison",
    "CostFigures": "systems",
    "DEPTH": "measures",
    "DatasetCounts": "queries",
    "Estimate": "statistics",
    "EvaluationResult": "results",
    "EvaluationTask": "tasks",
    "JudgedQuery": "queries",
    "METRICS": "measures",
    "MetricComparison": "comparison",
    "PeakMemory": "memory",
    "Questions": "questions",
    "Ranking": "systems",
    "SentenceResult": "sentences",
    "SweepOptions": "sweep",
    "SweepPlan": "sweep_grid",
    "SweepResult": "sweep_records",
    "System": "systems",
    "SystemBuilder": "tasks",
    "ask": "asking",
    "bm25_of_chunks": "lexical",
    "bm25_of_collection": "lexical",
    "bm25_of_documents": "lexical",
    "bootstrap": "statistics",
    "check_output": "result_files",
    "compare_results": "comparison",
    "compare_with_main": "comparison",
    "configuration_differences": "comparison",
    "cost_of": "asking",
    "encoder_system": "running",
    "estimates_of": "systems",
    "evaluate": "running",
    "evaluate_collection": "questions",
    "evaluate_sentences": "sentences",
    "holm": "statistics",
    "length_buckets": "buckets",
    "measured_memory": "memory",
    "package_versions": "asking",
    "parse_beside": "system_names",
    "parse_thresholds": "thresholds",
    "per_query_records": "result_files",
    "prepare_beside": "baselines",
    "prepare_sweep": "sweep",
    "prepare_task": "tasks",
    "randomisation_test": "statistics",
    "rank_documents": "ranking",
    "read_questions": "questions",
    "read_results": "result_files",
    "read_sentence_task": "sentence_tasks",
    "read_sweep": "sweep_files",
    "record_of": "summaries",
    "require_bm25": "lexical",
    "require_ranx": "measures",
    "run_sweep": "sweep",
    "same_chunks": "baselines",
    "score": "measures",
    "scored_system": "systems",
    "summary_of": "summaries",
    "system_name": "system_names",
    "top_documents": "ranking",
    "write_results": "result_files",
    "write_sentence_result": "sentence_results",
    "write_sweep": "sweep_files",
}

__all__ = [
    "BASELINES",
    "DEPTH",
    "METRICS",
    "Answers",
    "BM25Config",
    "BM25Index",
    "Bucket",
    "Comparison",
    "CostFigures",
    "DatasetCounts",
    "Estimate",
    "EvaluationResult",
    "EvaluationTask",
    "JudgedQuery",
    "MetricComparison",
    "PeakMemory",
    "Questions",
    "Ranking",
    "SentenceResult",
    "SweepOptions",
    "SweepPlan",
    "SweepResult",
    "System",
    "SystemBuilder",
    "ask",
    "bm25_of_chunks",
    "bm25_of_collection",
    "bm25_of_documents",
    "bootstrap",
    "check_output",
    "compare_results",
    "compare_with_main",
    "configuration_differences",
    "cost_of",
    "encoder_system",
    "estimates_of",
    "evaluate",
    "evaluate_collection",
    "evaluate_sentences",
    "holm",
    "length_buckets",
    "measured_memory",
    "package_versions",
    "parse_beside",
    "parse_thresholds",
    "per_query_records",
    "prepare_beside",
    "prepare_sweep",
    "prepare_task",
    "randomisation_test",
    "rank_documents",
    "read_questions",
    "read_results",
    "read_sentence_task",
    "read_sweep",
    "record_of",
    "require_bm25",
    "require_ranx",
    "run_sweep",
    "same_chunks",
    "score",
    "scored_system",
    "summary_of",
    "system_name",
    "top_documents",
    "write_results",
    "write_sentence_result",
    "write_sweep",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipelines.evaluation.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
