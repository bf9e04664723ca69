"""People's own questions, put to a collection that exists already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from qdrant_client import models

from pipelines.beir import json_lines
from pipelines.errors import JSON, SourceError
from pipelines.evaluation.asking import ask, cost_of, package_versions
from pipelines.evaluation.measures import DEPTH, require_ranx
from pipelines.evaluation.memory import measured_memory
from pipelines.evaluation.queries import DatasetCounts
from pipelines.evaluation.results import EvaluationResult
from pipelines.evaluation.system_names import system_name
from pipelines.evaluation.systems import scored_system
from pipelines.evaluation.tasks import judged_queries
from pipelines.points import CONTENT_KEY
from pipelines.store import batches

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pipelines.evaluation.queries import JudgedQuery
    from pipelines.evaluation.systems import System
    from pipelines.pinned import PinnedCollection
    from pipelines.report import Progress
    from pipelines.retrieval import OpenCollection

CollectionSystem: TypeAlias = "Callable[[PinnedCollection, Mapping[str, JudgedQuery], Progress | None], System]"
"""Makes one system of a collection and the queries put to it."""

_NAMED, _SHOWN = 10, 3
_BATCH = 256
_LINE = 'one JSON object per line, {"question": "…", "document_id": "…"}, where document_id may be a list'


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions and the documents that answer them.

    Attributes:
        name: Of the file, without its ending.
        texts: Query id -> question, in file order; the id is the line's `id`, else its number.
        judgements: Query id -> document id -> 1.
    """

    name: str
    texts: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]


def read_questions(path: str | Path) -> Questions:
    """Read a file of questions.

    Ids are kept as they are, slashes and white space included; numbers become text.

    Raises:
        SourceError: there is no such file, or a line is not what it must be; naming the line.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise SourceError(f"{file} is not a file of questions; give {_LINE}")
    texts: dict[str, str] = {}
    judgements: dict[str, dict[str, int]] = {}
    for number, record in json_lines(file):
        where = f"{file} line {number}"
        name = _identifier(record.get("id", number), "id", where)
        if name in texts:
            raise SourceError(f"{where} has the id {name!r} of an earlier question; ids must differ")
        texts[name] = _question(record, where)
        judgements[name] = dict.fromkeys(_answers(record, where), 1)
    if not texts:
        raise SourceError(f"{file} has no question; give {_LINE}")
    return Questions(file.stem, texts, judgements)


def evaluate_collection(
    questions: Questions,
    opened: OpenCollection,
    *,
    beside: Sequence[CollectionSystem] = (),
    progress: Progress | None = None,
) -> EvaluationResult:
    """Search a collection as its users do, with the encoder that filled it, and score the documents found.

    A document ranks by its best chunk. Documents that the collection does not have, or has quarantined without a
    searchable form, count as not found.

    Args:
        questions: What is asked.
        opened: What is searched; on a server through its index and as its quantization wants.
        beside: Make further systems over the same points, such as `bm25_of_collection`.
        progress: Told of the stage "search".

    Raises:
        SourceError: the collection has none of the documents.
        TerminalError: ranx is not installed.
    """
    require_ranx()
    pinned = opened.pinned()
    wanted = sorted({name for grades in questions.judgements.values() for name in grades})
    lengths = _lengths(pinned, wanted)
    missing = [name for name in wanted if name not in lengths]
    if len(missing) == len(wanted):
        raise SourceError(_none_there(questions, pinned, missing))
    queries = judged_queries(questions.texts, questions.judgements, pinned.encoder.tokenizer, lengths)
    params = pinned.search_params or models.SearchParams()
    with measured_memory() as peak:
        answers = ask(pinned, list(questions.texts.values()), DEPTH, search_params=params, progress=progress)
    others = [build(pinned, queries, progress) for build in beside]
    manifest = pinned.manifest
    system = scored_system(
        system_name(pinned.encoder.config),
        queries,
        dict(zip(questions.texts, answers.rankings, strict=True)),
        identity=manifest.encoder,
        fingerprint=manifest.fingerprint,
        chunking=manifest.chunking,
        figures=cost_of(answers, peak),
        layer_profile=manifest.layer_profile,
    )
    counts = DatasetCounts(
        documents=sum(entry.committed for entry in pinned.collection.ledger.scan()),
        judged_missing=len(missing),
        missing_ids=tuple(missing[:_NAMED]),
    )
    return EvaluationResult(questions.name, queries, counts, (system, *others), pinned.name, package_versions())


def _lengths(pinned: PinnedCollection, wanted: Iterable[str]) -> dict[str, int]:
    """Return id -> tokens of its chunks, overlaps counted twice, of those documents that are searchable."""
    found = {}
    for ids in batches(wanted, _BATCH):
        for name, entry in pinned.collection.ledger.get(ids).items():
            if entry.committed:
                found[name] = _tokens(pinned, entry.point_ids, pinned.encoder.tokenizer)
    return found


def _tokens(pinned: PinnedCollection, point_ids: Iterable[str], tokenizer: Tokenizer) -> int:
    total = 0
    for ids in batches(point_ids, _BATCH):
        records = pinned.call(pinned.store.client.retrieve, pinned.physical, ids=ids, with_payload=[CONTENT_KEY])
        texts = [str((record.payload or {}).get(CONTENT_KEY, "")) for record in records]
        total += sum(len(cut.ids) for cut in tokenizer.encode_batch(texts, add_special_tokens=False))
    return total


def _none_there(questions: Questions, pinned: PinnedCollection, missing: list[str]) -> str:
    known = [entry.document_id for entry, _ in zip(pinned.collection.ledger.scan(), range(_SHOWN), strict=False)]
    return (
        f"collection {pinned.name!r} has none of the {len(missing)} documents that {questions.name} names, such as "
        f"{_quoted(missing[:_SHOWN])}; its own have ids such as {_quoted(known) or 'none: it is empty'}; "
        "are the ids the same?"
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _question(record: Mapping[str, JSON], where: str) -> str:
    text = record.get("question")
    if not isinstance(text, str) or not text.strip():
        raise SourceError(f"{where} has no question; it has {sorted(record)}; give {_LINE}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SourceError(f"{where} has half a character (a lone surrogate) in its question; repair it") from None
    return text


def _answers(record: Mapping[str, JSON], where: str) -> list[str]:
    given = record.get("document_id")
    names = given if isinstance(given, list) else [given]
    if not names:
        raise SourceError(f"{where} names no document; give {_LINE}")
    return [_identifier(name, "document_id", where) for name in names]


def _identifier(value: JSON, field: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise SourceError(f"{where} has {field} {value!r}; it must be a text or a whole number; give {_LINE}")
    return str(value)
