"""The commands that judge search: `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import cli_options as options
from pipelines.cli_encoder import CuttingChoice, EncoderChoice, load_encoder, prepare_models
from pipelines.cli_report import PageOfResult, check_page, write_page
from pipelines.console import FAILED, QUARANTINED
from pipelines.errors import SourceError
from pipelines.invocation import command_line

if TYPE_CHECKING:
    from pipelines.console import Terminal
    from pipelines.evaluation import EvaluationResult

_GATE = "For continuous integration"
_WITH_COLLECTION = ("model", "device")
"""Options of the encoder that say where it runs, not what it is."""


def _checked_thresholds(texts: list[str] | None) -> list[str] | None:
    _thresholds(texts)
    return texts


def _thresholds(texts: Sequence[str] | None) -> dict[str, float]:
    from pipelines.evaluation.thresholds import parse_thresholds

    try:
        return parse_thresholds(texts or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _checked_beside(texts: list[str] | None) -> list[str] | None:
    _names_beside(texts)
    return texts


def _names_beside(texts: Sequence[str] | None) -> tuple[str, ...]:
    from pipelines.evaluation.system_names import parse_beside

    try:
        return parse_beside(texts or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Folder with corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv; or, with --collection, a file "
        'with a line {"question": …, "document_id": …} per question.',
        show_default=False,
    ),
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under",
        metavar="METRIC=VALUE",
        callback=_checked_thresholds,
        help="End with 1 when the mean is lower, such as ndcg@10=0.4; may be given several times.",
        show_default=False,
        rich_help_panel=_GATE,
    ),
]
MaxDrop = Annotated[
    list[str] | None,
    typer.Option(
        "--max-drop",
        metavar="METRIC=VALUE",
        callback=_checked_thresholds,
        help="End with 1 when B is further below A than that, such as ndcg@10=0.01.",
        show_default=False,
        rich_help_panel=_GATE,
    ),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="NAME,…",
        callback=_checked_beside,
        help="Systems to judge on the same chunks and queries: bm25, bm25-documents, static, last-token, mean, "
        "prompt-eol, echo, token-prepending, no-rerouting, kv-rerouting, or all.",
        show_default=False,
    ),
]
ResultFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Write summary.json, per_query.jsonl, run.trec and qrels.trec there.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """What is to be judged, and how it is made."""

    dataset: Dataset
    encoder: EncoderChoice
    cutting: CuttingChoice
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Ask this collection, with the encoder that filled it, instead of indexing a data set.",
            show_default=False,
        ),
    ] = None
    store: options.Store = None
    beside: Beside = None


def evaluate(
    invocation: typer.Context,
    request: EvaluateRequest,
    output: options.Output,
    folder: ResultFolder = None,
    page: PageOfResult = None,
    fail_under: FailUnder = None,
) -> None:
    """Measure search quality on judged queries, through the whole pipeline.

    DATASET is a folder in BEIR's layout, indexed for the purpose; or your own questions, put to a collection.
    """
    with output.terminal() as terminal:
        from pipelines import evaluation
        from pipelines import rendering_evaluation as rendering
        from pipelines.evaluation.thresholds import too_low

        check_page(page)
        evaluated = _ask_dataset if request.collection is None else _ask_collection
        result = replace(evaluated(request, folder, terminal), command=command_line(invocation))
        failures = too_low(result.metrics, _thresholds(fail_under))
        if folder is not None:
            evaluation.write_results(result, folder)
        write_page(result, page, Path(request.dataset) if request.collection is None else None, terminal)
        record = {**evaluation.record_of(result), "failures": failures}
        terminal.emit(record, rendering.evaluation_report(result))
        if result.main.figures.documents_quarantined:
            terminal.exit_code = QUARANTINED
        _fail(terminal, failures)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Folder of a result.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Folder of another.", show_default=False)],
    output: options.Output,
    shared: Annotated[
        bool, typer.Option("--shared", help="Leave out queries that the two do not share, instead of refusing.")
    ] = False,
    fail_under: FailUnder = None,
    max_drop: MaxDrop = None,
) -> None:
    """Compare two results of `evaluate --output` query by query, and test their differences.

    A system beside the first of a result is named by its own folder, such as results/bm25.
    """
    with output.terminal() as terminal:
        from pipelines import evaluation
        from pipelines import rendering_evaluation as rendering
        from pipelines.evaluation.thresholds import dropped, too_low

        before, after = evaluation.read_results(first), evaluation.read_results(second)
        comparison = evaluation.compare_results(before, after, shared_only=shared)
        changed = evaluation.configuration_differences(before.main, after.main)
        means = {one.metric: one.second for one in comparison.metrics}
        failures = too_low(means, _thresholds(fail_under)) + dropped(comparison, _thresholds(max_drop))
        systems = (before.main, after.main)
        record = {
            **comparison.to_dict(),
            "encoders": {side: system.identity for side, system in zip("ab", systems, strict=True)},
            "fingerprints": {side: system.fingerprint for side, system in zip("ab", systems, strict=True)},
            "configuration": changed,
            "failures": failures,
        }
        terminal.emit({"a": first, "b": second, **record}, rendering.comparison_report(comparison, systems, changed))
        _fail(terminal, failures)


def _ask_dataset(request: EvaluateRequest, folder: Path | None, terminal: Terminal) -> EvaluationResult:
    from pipelines import evaluation
    from pipelines.beir import read_dataset

    if request.store is not None:
        raise typer.BadParameter("--store says where a --collection is; a data set is indexed in memory")
    if Path(request.dataset).is_file():
        raise SourceError(
            f"{request.dataset} is a file; of a file of questions, name the collection to ask with --collection; "
            "a data set in BEIR's layout is a folder"
        )
    judged = read_dataset(request.dataset)
    _look_ahead(folder, terminal)
    config, chunking = request.encoder.config(), request.cutting.config()
    with terminal.waiting(f"loading {config.model}"):
        loaded = load_encoder(config, request.encoder.device)
    others = evaluation.prepare_beside(_names_beside(request.beside), loaded, chunking)
    with terminal.progress() as progress:
        return evaluation.evaluate(judged, loaded, chunking=chunking, beside=others, progress=progress)


def _ask_collection(request: EvaluateRequest, folder: Path | None, terminal: Terminal) -> EvaluationResult:
    from pipelines import open_collection
    from pipelines.evaluation import bm25_of_collection, evaluate_collection, read_questions, require_bm25
    from pipelines.evaluation.system_names import BM25

    name = request.collection or ""
    given = asdict(request.encoder) | asdict(request.cutting)
    if told := [
        f"--{key.replace('_', '-')}" for key in given if given[key] is not None and key not in _WITH_COLLECTION
    ]:
        raise typer.BadParameter(f"{', '.join(told)}: a collection is searched as it was filled; leave that out")
    others = _names_beside(request.beside)
    if embedding := [one for one in others if one != BM25]:
        raise typer.BadParameter(
            f"--beside {embedding[0]}: beside a collection only bm25 can stand, which reads its chunks as they are; "
            "index the source with another --method, evaluate that collection, and `compare` the two"
        )
    questions = read_questions(request.dataset)
    _look_ahead(folder, terminal)
    if others:
        require_bm25()
    model, device = request.encoder.model, request.encoder.device
    with terminal.waiting(f"opening {name}"):
        prepare_models(device)
        opened = open_collection(request.store, name, model=model, device=device)
    with opened, terminal.progress() as progress:
        beside = [bm25_of_collection] if others else []
        return evaluate_collection(questions, opened, beside=beside, progress=progress)


def _look_ahead(folder: Path | None, terminal: Terminal) -> None:
    """Find out before the work what would fail after it."""
    from pipelines import evaluation

    if folder is not None:
        evaluation.check_output(folder)
    with terminal.waiting("loading ranx"):
        evaluation.require_ranx()


def _fail(terminal: Terminal, failures: Sequence[str]) -> None:
    for failure in failures:
        terminal.note(f"Failed: {failure}", style="bold red")
    if failures:
        terminal.exit_code = FAILED
