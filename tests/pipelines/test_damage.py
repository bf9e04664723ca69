"""A collection that lost points gets them back from the next run, and nothing else is done."""

from __future__ import annotations

from qdrant_client import models

from pipelines import ChunkingConfig, Document, IngestReport, ingest, open_collection, plan
from pipelines.verification import VerifyReport
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import WatchedClient, contents

SMALL = ChunkingConfig(max_tokens=12)
STRAY = "12345678-1234-5678-1234-567812345678"


def documents() -> list[Document]:
    short = [Document(f"d{number}", f"word{number} tells of {number}.", f"d{number}.txt") for number in range(4)]
    paragraphs = "\n\n".join(f"Part{number} has a paragraph of its own with some words." for number in range(6))
    return [*short, Document("long", paragraphs, "long.txt")]


def run(client: WatchedClient, encoder: FakeEncoder | None = None) -> IngestReport:
    return ingest(documents(), client, "notes", encoder or FakeEncoder(), chunking=SMALL)


def checked(client: WatchedClient) -> VerifyReport:
    with open_collection(client, "notes", encoder=FakeEncoder()) as collection:
        return collection.verify()


def points_of(client: WatchedClient, document_id: str) -> list[str]:
    found = contents(client, "notes")["points"]
    return [point_id for point_id, payload in found.items() if payload["metadata"]["document_id"] == document_id]


def test_ingest_missing_point_is_embedded_again_and_nothing_else() -> None:
    """Its document is the same as ever, so a comparison of contents alone would leave the hole for good."""
    client, encoder = WatchedClient(), FakeEncoder()
    run(client, encoder)
    whole = contents(client, "notes")
    lost = points_of(client, "long")[2]
    client.delete(whole["physical"], [lost])
    assert checked(client).missing_documents == ("long",)
    found = plan(documents(), client, "notes", FakeEncoder(), chunking=SMALL)
    assert (found.changed, found.unchanged) == (("long",), 4)
    assert found.chunks_to_embed > 0
    texts = len(encoder.texts)
    report = run(client, encoder)
    assert (report.documents_changed, report.documents_unchanged) == (1, 4)
    assert (report.chunks_embedded, report.points_written) == (1, 1)
    assert len(encoder.texts) - texts == 1
    assert checked(client).ok
    assert contents(client, "notes") == whole


def test_ingest_all_points_gone_brings_them_back() -> None:
    client = WatchedClient()
    run(client)
    whole = contents(client, "notes")
    client.delete(whole["physical"], list(whole["points"]))
    report = run(client)
    assert (report.documents_changed, report.documents_unchanged) == (5, 0)
    assert report.chunks_embedded == len(whole["points"])
    assert checked(client).ok
    assert contents(client, "notes") == whole
    writes = len(client.writes)
    assert run(client).documents_unchanged == 5
    assert client.writes[writes:] == []


def test_ingest_stray_point_is_left_to_people_and_nothing_is_written() -> None:
    """Someone may have put it there through LangChain; `verify` says how to remove it."""
    client = WatchedClient()
    run(client)
    physical = contents(client, "notes")["physical"]
    (point,) = client.retrieve(physical, points_of(client, "d0"), with_vectors=True)
    client.upsert(physical, [models.PointStruct(id=STRAY, vector=point.vector, payload=point.payload)])
    writes = len(client.writes)
    assert run(client).documents_unchanged == 5
    assert client.writes[writes:] == []
    assert checked(client).stray_ids == (STRAY,)
