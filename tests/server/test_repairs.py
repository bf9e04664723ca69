"""Damage on a server is found and mended there as in an embedded store, by REST and by gRPC."""

from __future__ import annotations

import pytest
from qdrant_client import models

from pipelines import ChunkingConfig, Document, VerifyReport, ingest, open_collection
from pipelines.physical import ledger_name, resolve
from pipelines.points import ledger_id, point_id
from pipelines.recall import recall_check
from pipelines.store import Store
from pipelines.verification import verify_collection
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import contents
from tests.server.conftest import Served

pytestmark = [
    # A server of CI listens on the loopback interface, where the key travels in the clear.
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning"),
]

SMALL = ChunkingConfig(max_tokens=12)
FOREIGN = 5


def documents() -> list[Document]:
    words = [f"alpha{number} beta{number} gamma{number}.\n\ndelta{number} and more words." for number in range(6)]
    return [Document(f"d{number}", text, f"d{number}.txt", f"Title {number}") for number, text in enumerate(words)]


def checked(store: Store, name: str, *, repair: bool) -> VerifyReport:
    with open_collection(store, name, encoder=FakeEncoder()) as collection:  # type: ignore[arg-type]
        pinned = collection.pinned()
        given = documents() if repair else None
        return verify_collection(
            pinned.store, pinned.collection, pinned.encoder, full=True, repair=repair, source=given
        )


def damage(store: Store, physical: str, points: dict[str, list[str]]) -> None:
    client, plain = store.client, [1.0] * FakeEncoder.dimension
    client.delete(physical, points["d0"][:1], wait=True)
    client.set_payload(physical, {"page_content": "Something else."}, points["d1"][:1], wait=True)
    (whole,) = client.retrieve(physical, points["d2"][:1], with_vectors=True)
    client.upsert(physical, [models.PointStruct(id=whole.id, vector=plain, payload=whole.payload)], wait=True)
    client.delete(ledger_name(physical), [ledger_id("d3")], wait=True)
    metadata = {"document_id": "d4", "content_hash": "5" * 64}
    stray = models.PointStruct(id=point_id("d4", "5" * 64, 0), vector=plain, payload={"metadata": metadata})
    client.upsert(physical, [stray, models.PointStruct(id=FOREIGN, vector=plain, payload={})], wait=True)


def test_served_damage_of_every_kind_is_found_and_mended(served: Served) -> None:
    with served.open() as store:
        ingest(documents(), store, served.name, FakeEncoder(), chunking=SMALL)  # type: ignore[arg-type]
        whole = contents(store.client, served.name)
        physical = whole["physical"]
        damage(store, physical, {document_id: list(entry[2]) for document_id, entry in whole["ledger"].items()})
        found = checked(store, served.name, repair=False)
        assert (found.missing_documents, found.altered_documents) == (("d0",), ("d1",))
        assert (found.altered_vectors, found.stray_points) == (1, 2 + len(whole["ledger"]["d3"][2]))
        mended = checked(store, served.name, repair=True)
        assert (mended.repaired_vectors, mended.deleted_strays, mended.restored_entries) == (1, 1, 1)
        assert (mended.marked_documents, mended.rewritten_documents) == (3, 3)
        assert mended.problems == checked(store, served.name, repair=False).problems
        assert "1 points belong to no form" in mended.problems[0]
        store.client.delete(physical, [FOREIGN], wait=True)
        assert checked(store, served.name, repair=False).ok
        assert contents(store.client, served.name) == whole


def test_served_documents_are_found_by_their_own_text(served: Served) -> None:
    with served.open() as store:
        ingest(documents(), store, served.name, FakeEncoder(), chunking=SMALL)  # type: ignore[arg-type]
        physical = resolve(store, served.name)
        assert physical is not None
        with open_collection(store, served.name, encoder=FakeEncoder()) as collection:  # type: ignore[arg-type]
            pinned = collection.pinned()
            report = recall_check(store, physical, pinned.encoder, pinned.manifest)
        assert (report.checked, report.found) == (6, 6)
