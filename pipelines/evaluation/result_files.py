"""An evaluation in a folder, written for people, programs and trec_eval, and read back.

```
FOLDER/summary.json       means with intervals, configuration, fingerprints, what it took, versions; no rankings
FOLDER/qrels.trec         judgements that count, in trec_eval's format
FOLDER/per_query.jsonl    of the first system: one query a line, with its metrics
FOLDER/run.trec           of the first system: its rankings, in trec_eval's format
FOLDER/NAME/…             per_query.jsonl and run.trec of every further system
```
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import cast

from pipelines.errors import JSON, SourceError, TerminalError
from pipelines.evaluation.queries import DatasetCounts, JudgedQuery
from pipelines.evaluation.results import EvaluationResult
from pipelines.evaluation.statistics import Estimate
from pipelines.evaluation.summaries import summary_of
from pipelines.evaluation.systems import CostFigures, Ranking, System
from pipelines.evaluation.trec_files import qrels_lines, read_qrels, read_run, run_lines

SCHEMA = 1
"""Version of the layout; raised when an older reader would misread it."""

_SUMMARY, _QRELS, _PER_QUERY, _RUN = "summary.json", "qrels.trec", "per_query.jsonl", "run.trec"
_DERIVED = ("tokens_per_second", "truncation_rate")


def check_output(folder: str | Path) -> Path:
    """Make the folder if need be, and refuse one that holds anything but an earlier result.

    Raises:
        TerminalError: it cannot be written to, or something else lies there.
    """
    root = Path(folder).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = any(root.iterdir()) and not (root / _SUMMARY).is_file()
    except OSError as error:
        raise TerminalError(f"results cannot be written to {root}: {error}; choose another --output") from error
    if taken:
        raise TerminalError(f"{root} holds other things than a result; choose a new or empty folder with --output")
    return root


def write_results(result: EvaluationResult, folder: str | Path) -> Path:
    """Write a result, in place of an earlier one.

    Args:
        result: Of any number of systems.
        folder: New, empty, or holding an earlier result.

    Returns:
        The folder.

    Raises:
        TerminalError: as `check_output`.
    """
    root = check_output(folder)
    try:
        _remove_earlier(root)
        _write(root / _QRELS, qrels_lines({query.id: query.judgements for query in result.queries.values()}))
        for place, system in enumerate(result.systems):
            own = root / system.name if place else root
            own.mkdir(exist_ok=True)
            _write(own / _PER_QUERY, (_line(record) for record in per_query_records(result, system)))
            _write(own / _RUN, run_lines(system.name, system.rankings))
        summary = {"schema": SCHEMA, **summary_of(result)}
        _write(root / _SUMMARY, [json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"])
    except OSError as error:
        raise TerminalError(f"results cannot be written to {root}: {error}; choose another --output") from error
    return root


def per_query_records(result: EvaluationResult, system: System) -> Iterator[dict[str, JSON]]:
    """Yield what per_query.jsonl has of each query, the place of its first relevant document among it."""
    for query in result.queries.values():
        yield {
            "query_id": query.id,
            "text": query.text,
            "tokens": query.tokens,
            "relevant": sum(grade > 0 for grade in query.judgements.values()),
            "relevant_tokens": query.relevant_tokens,
            "first_relevant_rank": result.first_relevant_rank(system, query.id),
            "metrics": dict(system.per_query[query.id]),
        }


def read_results(folder: str | Path) -> EvaluationResult:
    """Read what `write_results` wrote.

    Scores of tied documents come back as the run file has them, a least step apart.

    Args:
        folder: A result's folder; or one of its systems' folders, which then comes first.

    Raises:
        SourceError: there is no result, a file of it is missing or damaged, or a later version wrote it.
    """
    root = Path(folder).expanduser()
    chosen = None
    if not (root / _SUMMARY).is_file() and (root / _RUN).is_file() and (root.parent / _SUMMARY).is_file():
        root, chosen = root.parent, root.name
    try:
        result = _read(root)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{root} holds no result that can be read ({type(error).__name__}: {error}); "
            "write one with `kvembed evaluate DATASET --output FOLDER`"
        ) from error
    return result if chosen is None else result.led_by(chosen)


def _read(root: Path) -> EvaluationResult:
    summary = json.loads((root / _SUMMARY).read_text(encoding="utf-8"))
    if "kind" in summary:
        raise SourceError(
            f"{root} is a result of `kvembed sentences`; its systems stand beside each other in one run, by --beside"
        )
    if summary["schema"] != SCHEMA:
        raise SourceError(f"{root} was written in layout {summary['schema']}; this version reads {SCHEMA}")
    judgements = read_qrels(root / _QRELS)
    folders = [root, *(root / record["name"] for record in summary["systems"][1:])]
    tables = [_read_lines(folder / _PER_QUERY) for folder in folders]
    queries = {query.id: query for query in (_query(record, judgements) for record in tables[0])}
    systems = [
        _system(record, queries, table, read_run(folder / _RUN))
        for record, folder, table in zip(summary["systems"], folders, tables, strict=True)
    ]
    return EvaluationResult(
        dataset=summary["dataset"],
        queries=queries,
        counts=_counts(summary),
        systems=tuple(systems),
        collection=summary["collection"],
        versions=summary["versions"],
        depth=summary["depth"],
        command=summary.get("command", ""),
    )


def _counts(summary: Mapping[str, JSON]) -> DatasetCounts:
    numbers = {field.name: summary[field.name] for field in fields(DatasetCounts) if field.name != "missing_ids"}
    missing = tuple(cast("list[str]", summary["missing_ids"]))
    return DatasetCounts(**cast("dict[str, int]", numbers), missing_ids=missing)


def _query(record: Mapping[str, JSON], judgements: Mapping[str, Mapping[str, int]]) -> JudgedQuery:
    name = str(record["query_id"])
    return JudgedQuery(
        id=name,
        text=str(record["text"]),
        tokens=cast("int", record["tokens"]),
        judgements=judgements[name],
        relevant_tokens=cast("float | None", record["relevant_tokens"]),
    )


def _system(
    record: Mapping[str, dict[str, dict[str, float]]],
    queries: Mapping[str, JudgedQuery],
    table: Iterable[Mapping[str, JSON]],
    rankings: Mapping[str, Ranking],
) -> System:
    per_query = {str(row["query_id"]): cast("Mapping[str, float]", row["metrics"]) for row in table}
    figures = {name: value for name, value in record["figures"].items() if name not in _DERIVED}
    return System(
        name=str(record["name"]),
        rankings={query: rankings.get(query, ()) for query in queries},
        per_query={query: per_query[query] for query in queries},
        estimates={metric: Estimate(**values) for metric, values in record["metrics"].items()},
        identity=cast("Mapping[str, JSON]", record["identity"]),
        fingerprint=str(record["fingerprint"]),
        chunking=cast("Mapping[str, JSON]", record["chunking"]),
        figures=CostFigures(**figures),  # type: ignore[arg-type]
        layer_profile=cast("Mapping[str, JSON] | None", record.get("layer_profile")),
    )


def _read_lines(path: Path) -> list[dict[str, JSON]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _line(record: Mapping[str, JSON]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _remove_earlier(root: Path) -> None:
    """Take an earlier result away, so that nothing of it stands beside the new one; its summary goes first."""
    if not (root / _SUMMARY).is_file():
        return
    (root / _SUMMARY).unlink()
    for own in [root, *(path.parent for path in root.glob(f"*/{_RUN}"))]:
        for name in (_QRELS, _PER_QUERY, _RUN):
            (own / name).unlink(missing_ok=True)
        if own != root and not any(own.iterdir()):
            shutil.rmtree(own)
