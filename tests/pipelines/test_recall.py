"""A document is found by its own text, or the check says which is not."""

from __future__ import annotations

import pytest
from qdrant_client import models

from kvembed import KVEncoder
from pipelines import Chunker, ChunkingConfig, Document, ingest, open_collection
from pipelines.ledger import Ledger
from pipelines.recall import RecallReport, recall_check
from pipelines.storage import StorageConfig
from pipelines.store import Store, open_store
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import WatchedClient, contents

SMALL = ChunkingConfig(max_tokens=12)
COUNT = 30


class Watched(WatchedClient):
    """Keeps the requests of the last batch of queries."""

    requests: list[models.QueryRequest]

    def query_batch_points(self, collection_name, requests, **kwargs):  # type: ignore[no-untyped-def]
        self.requests = list(requests)
        plain = [request.model_copy(update={"params": None}) for request in requests]  # which it would warn of
        return super().query_batch_points(collection_name, plain, **kwargs)


def filled(documents: list[Document], encoder: FakeEncoder | None = None) -> tuple[Watched, str]:
    client = Watched()
    ingest(documents, client, "notes", encoder or FakeEncoder(), chunking=SMALL)  # type: ignore[arg-type]
    return client, contents(client, "notes")["physical"]


def several() -> list[Document]:
    words = [f"alpha{number} beta{number} gamma{number} delta{number}." for number in range(COUNT)]
    return [
        *(Document(f"d{number}", text, "s", "A title") for number, text in enumerate(words)),
        Document("e", "", "s"),
    ]


def recalled(client: Watched, physical: str, **options: int) -> RecallReport:
    encoder = FakeEncoder()
    with open_store(client) as store:
        return recall_check(store, physical, encoder, Chunker(SMALL, encoder), **options)  # type: ignore[arg-type]


def test_recall_check_whole_collection_finds_every_document() -> None:
    client, physical = filled(several())
    writes = len(client.writes)
    assert recalled(client, physical) == RecallReport(checked=COUNT, found=COUNT, missed_ids=())
    assert recalled(client, physical, limit=1).found == COUNT
    assert client.writes[writes:] == []


def test_recall_check_takes_a_manifest_for_a_chunker() -> None:
    client, physical = filled(several())
    with open_collection(client, "notes", encoder=FakeEncoder()) as opened:  # type: ignore[arg-type]
        pinned = opened.pinned()
        assert recall_check(pinned.store, physical, pinned.encoder, pinned.manifest).found == COUNT


def test_recall_check_draws_as_many_as_asked_by_its_seed() -> None:
    client, physical = filled(several())
    encoder = FakeEncoder()
    drawn = []
    with open_store(client) as store:
        for seed in (0, 0, 1):
            start = len(encoder.texts)
            report = recall_check(store, physical, encoder, Chunker(SMALL, encoder), documents=5, seed=seed)  # type: ignore[arg-type]
            assert (report.checked, report.found) == (5, 5)
            drawn.append(encoder.texts[start:])
    assert drawn[0] == drawn[1] != drawn[2]


def test_recall_check_empty_collection_has_nothing_to_miss() -> None:
    client, physical = filled([Document("e", "", "s")])
    assert recalled(client, physical) == RecallReport(0, 0, ())


def test_recall_check_vectors_of_other_texts_are_missed_by_name() -> None:
    client, physical = filled(several())
    found = contents(client, "notes")
    ids = list(found["points"])
    moved = [
        models.PointVectors(id=one, vector=found["vectors"][other])
        for one, other in zip(ids, ids[1:] + ids[:1], strict=True)
    ]
    client.update_vectors(physical, moved)
    report = recalled(client, physical, limit=1)
    assert report.found == 0
    assert set(report.missed_ids) == {f"d{number}" for number in range(COUNT)}


@pytest.mark.parametrize("damage", ["missing", "text"])
def test_recall_check_chunk_that_is_gone_or_altered_is_missed(damage: str) -> None:
    client, physical = filled(several())
    points = contents(client, "notes")["points"]
    doomed = next(point for point, payload in points.items() if payload["metadata"]["document_id"] == "d7")
    if damage == "missing":
        client.delete(physical, [doomed])
    else:
        client.set_payload(physical, {"page_content": "else"}, [doomed])
    assert recalled(client, physical) == RecallReport(COUNT, COUNT - 1, ("d7",))


def test_recall_check_one_of_many_copies_is_found_by_another() -> None:
    """More copies of one text than hits: which of them are shown is chance."""
    client, physical = filled([Document(f"d{number}", "The same words.", "s") for number in range(25)])
    assert recalled(client, physical).found == 25
    with open_store(client) as store:
        ledger = Ledger(store, physical)
        assert len(list(ledger.scan())) == 25


def test_recall_check_text_that_another_point_has_as_well_is_found_there() -> None:
    documents = [*several(), Document("copy", several()[0].text, "s", "A title")]
    client, physical = filled(documents)
    found = contents(client, "notes")
    owners = {payload["metadata"]["document_id"]: point for point, payload in found["points"].items()}
    wrong = models.PointVectors(id=owners["copy"], vector=found["vectors"][owners["d9"]])
    client.update_vectors(physical, [wrong])
    assert recalled(client, physical, limit=1).found == COUNT + 1


def test_recall_check_text_among_many_as_near_counts_as_found() -> None:
    """A vector that cannot tell texts apart is nothing the collection lost."""
    texts = [f"{' ' * number}Same" for number in range(25)]  # the encoder sees one word, each text is another
    client, physical = filled([Document(f"d{n}", f"{text} {text.lower()}", "s") for n, text in enumerate(texts)])
    found = contents(client, "notes")
    assert len({payload["page_content"] for payload in found["points"].values()}) > 10
    assert recalled(client, physical).found == 25


def test_recall_check_searches_as_the_storage_demands() -> None:
    client, physical = filled(several())
    encoder = FakeEncoder()
    storage = StorageConfig(quantization="scalar")
    with open_store(client) as store:
        for embedded, params in ((True, None), (False, storage.search_params())):
            store.embedded = embedded
            recall_check(store, physical, encoder, Chunker(SMALL, encoder), storage=storage)  # type: ignore[arg-type]
            assert {request.params == params for request in client.requests} == {True}


def test_recall_check_real_encoder_finds_cut_titles(tiny_encoder: KVEncoder) -> None:
    title = "A title that is much longer than the share of the budget that a title may take of a chunk"
    paragraphs = [f"Paragraph {number} speaks of {number * 17} things.\n\n" for number in range(20)]
    documents = [Document(f"d{number}", text, "s", title) for number, text in enumerate(paragraphs)]
    client = Watched()
    ingest(documents, client, "notes", tiny_encoder, chunking=ChunkingConfig(max_tokens=32))
    physical = contents(client, "notes")["physical"]
    store: Store
    with open_store(client) as store:
        report = recall_check(store, physical, tiny_encoder, Chunker(ChunkingConfig(max_tokens=32), tiny_encoder))
    assert report == RecallReport(20, 20, ())
