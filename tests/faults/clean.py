"""What a clean build leaves, and whether a store holds just that; whether a reader finds every document whole.

What a clean build of the last edition cannot know is the old form of a document that is broken now, which stays
searchable. The oracle says which forms that can be; the store's own ledger says which one it was, and a clean build of
just that form says what has to be there. Everything else is compared with a clean build of the last edition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from qdrant_client import QdrantClient

from pipelines import Document, ingest
from pipelines.chunking import Chunker
from pipelines.ledger import Ledger, LedgerEntry
from pipelines.points import Occurrences
from pipelines.store import open_store
from tests.faults.histories import PIPELINES, Corpus, Form, Forms, Oracle, document, encoder, physical_of
from tests.pipelines.stores import contents

_CLEAN = QdrantClient(":memory:")
_CHUNKERS = [Chunker(PIPELINES[number][1], encoder(number)) for number in range(len(PIPELINES))]
_points: dict[tuple[int, str, Form], Mapping[str, str]] = {}


def points_of(pipeline: int, identifier: str, form: Form) -> Mapping[str, str]:
    """Point -> text, as the chunker and the naming of points have them."""
    key = (pipeline, identifier, form)
    if key not in _points:
        found = document(identifier, form)
        assert isinstance(found, Document)
        named = Occurrences()
        _points[key] = {named.point_id(chunk): chunk.text for chunk in _CHUNKERS[pipeline].chunks(found)}
    return _points[key]


def is_whole(there: Mapping[str, str], pipeline: int, identifier: str, forms: Forms) -> bool:
    """Tell whether these points have all of one of the forms."""
    if None in forms:
        return True
    wanted = [points_of(pipeline, identifier, form) for form in forms if form is not None]
    return any(points.items() <= there.items() for points in wanted)


def is_found(texts: Counter[str], pipeline: int, identifier: str, forms: Forms) -> bool:
    """Tell whether a search that found these texts of a document found all of one of the forms."""
    if None in forms:
        return True
    wanted = [Counter(points_of(pipeline, identifier, form).values()) for form in forms if form is not None]
    return any(form <= texts for form in wanted)


def emptied(client: QdrantClient) -> None:
    """Take everything out of a store; making another client takes longer than a run."""
    for found in client.get_collections().collections:
        client.delete_collection(found.name)


def clean_build(pipeline: int, corpus: Corpus) -> dict[str, Any]:
    emptied(_CLEAN)
    found = [document(one, form) for one, form in corpus.items()]
    ingest(found, _CLEAN, "notes", encoder(pipeline), chunking=PIPELINES[pipeline][1])
    return described(_CLEAN, pipeline)


def described(client: QdrantClient, pipeline: int) -> dict[str, Any]:
    """Everything a clean build would leave, the hashes in the ledger too."""
    with open_store(client) as store:
        entries = list(Ledger(store, physical_of(pipeline)).scan(brief=False))
    hashes = {entry.document_id: (entry.text_hash, entry.payload_hash) for entry in entries}
    return {**contents(client, "notes"), "hashes": hashes}


def expectation(client: QdrantClient, pipeline: int, corpus: Corpus, oracle: Oracle) -> dict[str, Any]:
    """What `described` shall say after one good run."""
    with open_store(client) as store:
        ledger = {entry.document_id: entry for entry in Ledger(store, physical_of(pipeline)).scan(brief=False)}
    wanted = clean_build(pipeline, corpus)
    kept: Corpus = {}
    for one, form in corpus.items():
        if form.fails:
            legal = {_content_hash(one, old): old for old in oracle.of(pipeline, one)}
            assert ledger[one].content_hash in legal, f"{one!r} is searchable in a form that it may not have"
            old = legal[ledger[one].content_hash]
            kept |= {one: old} if old is not None else {}
    if kept:
        _add(wanted, clean_build(pipeline, kept))
        _excuse(wanted, [ledger[one] for one in kept if not ledger[one].settled], client, pipeline)
    return wanted


def _add(wanted: dict[str, Any], old: dict[str, Any]) -> None:
    """Old forms stay searchable, under the reason why the new ones are not."""
    for part in ("points", "vectors", "hashes"):
        wanted[part] |= old[part]
    for one, (source, content, points, settled, _, cut) in old["ledger"].items():
        wanted["ledger"][one] = (source, content, points, settled, wanted["ledger"][one][4], cut)


def _excuse(wanted: dict[str, Any], halves: list[LedgerEntry], client: QdrantClient, pipeline: int) -> None:
    """Let a document whose update was cut short, and which broke before the next run, say so in the ledger.

    Its points are those of its old form, with the same texts and vectors; offsets and metadata of some may be those of
    the form that was on its way, and the old ones are known to nobody.
    """
    for entry in halves:
        source, content, points, _, why, cut = wanted["ledger"][entry.document_id]
        wanted["ledger"][entry.document_id] = (source, content, points, False, why, cut)
        for record in client.retrieve(physical_of(pipeline), ids=list(points)):
            assert record.payload is not None
            assert record.payload["page_content"] == wanted["points"][record.id]["page_content"]
            wanted["points"][record.id] = record.payload


def _content_hash(identifier: str, form: Form | None) -> str:
    return "" if form is None else document(identifier, form).content_hash
