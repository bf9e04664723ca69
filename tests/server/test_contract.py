"""What a server does for us, the same by REST and by gRPC, and the same as an embedded store does.

A real one is asked too: `docker compose up --detach --wait qdrant`, then
`QDRANT_URL=http://127.0.0.1:6333 make test ARGS="-m qdrant" TESTS=tests/server`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import numpy as np
import pytest
from qdrant_client import models

from pipelines import ChunkingConfig, Document, IngestReport, ingest, open_collection, plan, status
from pipelines.documents import Point
from pipelines.errors import StoreError
from pipelines.ledger import Ledger, LedgerEntry, RunRecord
from pipelines.point_store import PointStore
from pipelines.points import INDEXED_FIELDS
from pipelines.storage import StorageConfig, payload_indexes
from pipelines.store import REQUEST_BYTES, Store
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import contents
from tests.server.conftest import Served

pytestmark = [
    # A server of CI listens on the loopback interface, where the key travels in the clear.
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning"),
]

SMALL = ChunkingConfig(max_tokens=12)
ODD = {
    "none": None,
    "nested": {"list": [1, None, "é\x00🙂"], "empty": {}},
    "whole": 1.0,
    "large": 2**53 + 1,
    "no": False,
}


def corpus() -> list[Document]:
    documents = [
        Document(f"d{number}", f"word{number} tells of number {number}.\n\nIt has more to say.", f"d{number}.txt")
        for number in range(6)
    ]
    return [*documents, Document("odd/ids ü\n", "Odd words of an odd text.", "odd.txt", "Odd", ODD)]


def history() -> Iterator[list[Document]]:
    """The states of a source, one after the other: made, edited, moved within, shrunk, grown again."""
    documents = corpus()
    yield documents
    edited = Document("d1", "word1 says something else.\n\nIt has more to say.", "d1.txt")
    renamed = Document("d2", documents[2].text, "elsewhere/d2.txt")
    yield [documents[0], edited, renamed, *documents[3:]]
    yield [documents[0], edited, *documents[4:], Document("bad", "poison in it", "bad.txt")]
    yield [*documents, Document("empty", "", "empty.txt")]


def index(documents: list[Document], store: Store, name: str, **options: object) -> IngestReport:
    encoder = FakeEncoder(poison="poison")
    return ingest(documents, store, name, encoder, chunking=SMALL, delete="all", **options)  # type: ignore[arg-type]


def test_served_history_leaves_what_an_embedded_one_leaves(served: Served, embedded: Store) -> None:
    with served.open() as store:
        for documents in history():
            there, here = (index(documents, where, served.name) for where in (store, embedded))
            assert there.documents_quarantined == here.documents_quarantined
            assert (there.points_written, there.points_deleted) == (here.points_written, here.points_deleted)
            assert contents(store.client, served.name) == contents(embedded.client, served.name)


def test_served_second_run_writes_nothing(served: Served) -> None:
    with served.open() as store:
        first = index(corpus(), store, served.name)
        before = contents(store.client, served.name)
        calls = len(served.double.calls) if served.double else 0
        second = index(corpus(), store, served.name)
        assert (first.documents_added, second.documents_unchanged) == (7, 7)
        assert (second.chunks_embedded, second.points_written, second.points_updated) == (0, 0, 0)
        assert contents(store.client, served.name) == before
        if served.double:
            written = [call for call in served.double.calls[calls:] if call.write]
            assert [call for call in written if call.collection.startswith(first.physical)] == []


def test_served_plan_is_an_embedded_ones(served: Served, embedded: Store) -> None:
    states = list(history())
    with served.open() as store:
        for where in (store, embedded):
            index(states[0], where, served.name)
        there, here = (
            plan(states[1], where, served.name, FakeEncoder(), chunking=SMALL) for where in (store, embedded)
        )
        for field in ("added", "changed", "deleted", "unchanged", "chunks_to_embed"):
            assert getattr(there, field) == getattr(here, field)


def test_served_search_finds_what_an_embedded_one_finds(served: Served, embedded: Store) -> None:
    with served.open() as store:
        found = []
        for where in (store, embedded):
            index(corpus(), where, served.name)
            with open_collection(where, served.name, encoder=FakeEncoder()) as collection:
                found.append(collection.search("word3 tells", limit=4))
                assert len(collection.retriever(k=2).invoke("word3 tells")) == 2
        there, here = found
        assert there[0].document_id == "d3"
        assert [hit.score for hit in there] == pytest.approx([hit.score for hit in here], abs=1e-5)
        assert there[0].metadata == here[0].metadata


def test_served_collection_verifies_and_describes_itself(served: Served) -> None:
    with served.open() as store:
        index(corpus(), store, served.name)
        with open_collection(store, served.name, encoder=FakeEncoder()) as collection:
            assert collection.verify().ok
        (found,) = status(store, served.name)
        assert (found.collection, found.documents, found.interrupted) == (served.name, 7, False)


def test_served_payload_comes_back_as_it_was(served: Served) -> None:
    with served.open() as store:
        index(corpus(), store, served.name)
        with open_collection(store, served.name, encoder=FakeEncoder()) as collection:
            (hit,) = [hit for hit in collection.search("Odd words", limit=20) if hit.document_id == "odd/ids ü\n"]
        assert {key: hit.metadata[key] for key in ODD} == ODD


def test_served_fields_are_indexed_before_the_first_point(served: Served) -> None:
    """A server that indexes later builds what it has anew, and refuses strict filters until then."""
    with served.open() as store:
        report = index(corpus(), store, served.name)
        schema = store.client.get_collection(report.physical).payload_schema
        assert set(schema) == set(INDEXED_FIELDS)
        assert {found.data_type for found in schema.values()} == {models.PayloadSchemaType.KEYWORD}
    if served.double:
        calls = [call for call in served.double.calls if call.collection == report.physical]
        methods = [call.method for call in calls if call.write]
        assert methods.index("upsert") > max(
            number for number, method in enumerate(methods) if method == "create_payload_index"
        )


def test_served_creation_that_is_raced_makes_one_collection(served: Served) -> None:
    name, failures, start = f"{served.name}-raced", [], threading.Barrier(4)

    def create(number: int) -> None:
        try:
            with served.open() as store:
                start.wait(10)
                store.create(name, StorageConfig().vectors(4), {"maker": number})
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    with served.open() as store:
        assert (store.client.get_collection(name).config.metadata or {})["maker"] in range(4)


def test_served_creation_repeated_keeps_what_is_there(served: Served) -> None:
    name = f"{served.name}-kept"
    with served.open() as store:
        store.create(name, StorageConfig().vectors(4), None)
        PointStore(store, name).upsert(points(3, 4, {}))
        store.create(name, StorageConfig().vectors(4), None)
        assert PointStore(store, name).count() == 3


def points(count: int, dimension: int, payload: dict[str, object]) -> list[Point]:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(count, dimension)).astype(np.float32)
    return [Point(str(UUID(int=number)), vectors[number], dict(payload)) for number in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "dimension", "characters"), [(160, 4096, 10), (20, 8, 1_000_000)])
def test_served_large_points_arrive_in_requests_a_server_takes(
    served: Served, count: int, dimension: int, characters: int
) -> None:
    name = f"{served.name}-large"
    with served.open() as store:
        store.create(name, StorageConfig().vectors(dimension), None)
        there = PointStore(store, name)
        written = points(count, dimension, {"page_content": "x" * characters})
        there.upsert(written)
        assert there.count() == count
        there.overwrite_payloads({point.id: {"page_content": "y" * characters} for point in written})
        assert there.payloads([written[-1].id]) == {written[-1].id: {"page_content": "y" * characters}}
    if served.double:
        sizes = [call.size for call in served.double.calls if call.method in ("upsert", "batch_update_points")]
        assert max(sizes) <= REQUEST_BYTES
        assert sum(sizes) > REQUEST_BYTES or dimension == 4096  # or nothing needed cutting


def test_served_documents_with_large_metadata_are_indexed(served: Served) -> None:
    documents = [
        Document(f"d{number}", f"word{number} of it.", f"{number}.txt", "", {"scan": "x" * 3_500_000})
        for number in range(5)
    ]
    with served.open() as store:
        report = index(documents, store, served.name)
        assert (report.documents_added, report.documents_quarantined) == (5, 0)
        assert PointStore(store, report.physical).count() == report.points_written


def owned_by(owner: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="owner", match=models.MatchValue(value=owner))])


def test_served_conditional_write_is_applied_where_the_condition_holds(served: Served) -> None:
    """Upon this stand the locks between processes: a new point is written, one that is there only if it fits."""
    name, point_id = f"{served.name}-control", str(uuid4())
    with served.open() as store:
        store.create(name, None, None)

        def write(owner: str, expected: str) -> object:
            point = models.PointStruct(id=point_id, vector={}, payload={"owner": owner})
            store.call(store.client.upsert, name, points=[point], update_filter=owned_by(expected), wait=True)
            return store.call(store.client.retrieve, name, ids=[point_id])[0].payload

        assert write("a", "nobody") == {"owner": "a"}
        assert write("b", "nobody") == {"owner": "a"}
        assert write("b", "a") == {"owner": "b"}
        assert write("b", "a") == {"owner": "b"}  # delivered once more


def test_served_ledger_keeps_what_a_later_run_wrote(served: Served) -> None:
    """A request of a writer that lost its lease may arrive when its successor has committed already."""
    with served.open() as store:
        ledger = Ledger(store, served.name)
        ledger.create()
        for run, form in ((1, "first"), (3, "third"), (2, "second")):
            ledger.put([LedgerEntry("d", "d.txt", content_hash=form, generation=run)], run)
            ledger.put_run(RunRecord(generation=run, in_flight=(form,)))
        assert ledger.get(["d"])["d"].content_hash == "third"
        assert ledger.run() == RunRecord(generation=3, in_flight=("third",))
        ledger.put([LedgerEntry("d", "d.txt", content_hash="once more", generation=3)], 3)
        assert ledger.get(["d"])["d"].content_hash == "once more"


def test_served_conditional_writes_at_once_have_one_winner(served: Served) -> None:
    name, point_id, start = f"{served.name}-control", str(uuid4()), threading.Barrier(4)
    with served.open() as store:
        store.create(name, None, None)
        first = models.PointStruct(id=point_id, vector={}, payload={"owner": "", "free": True})
        store.call(store.client.upsert, name, points=[first], wait=True)

        def claim(number: int) -> None:
            with served.open() as other:
                start.wait(10)
                point = models.PointStruct(id=point_id, vector={}, payload={"owner": str(number)})
                other.call(other.client.upsert, name, points=[point], update_filter=free, wait=True)
                (record,) = other.call(other.client.retrieve, name, ids=[point_id])
                seen.append((record.payload or {})["owner"])

        free = models.Filter(must=[models.FieldCondition(key="free", match=models.MatchValue(value=True))])
        seen: list[object] = []
        threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(seen) == 4
        assert len(set(seen)) == 1  # whoever won, all of them read the same


def test_served_alias_is_swapped_in_one_call_and_again(served: Served) -> None:
    old, new, alias = (f"{served.name}-{part}" for part in ("old", "new", "alias"))
    with served.open() as store:
        for name in (old, new):
            store.create(name, None, None)
        for name in (old, new, new):  # a swap whose answer was lost is made once more
            swap = [
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
                models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias)),
            ]
            store.call(store.client.update_collection_aliases, swap)
            found = store.call(store.client.get_aliases).aliases
            assert [one.collection_name for one in found if one.alias_name == alias] == [name]
            of_it = store.call(store.client.get_collection_aliases, name).aliases
            assert [one.alias_name for one in of_it] == [alias]


def test_served_metadata_is_merged_key_by_key(served: Served) -> None:
    name = f"{served.name}-described"
    with served.open() as store:
        store.create(name, None, {"a": {"b": [1, 2.5, None]}, "kept": "yes"})
        store.call(store.client.update_collection, name, metadata={"a": {"b": [3]}, "new": 7})
        found = store.call(store.client.get_collection, name).config.metadata
        assert found == {"a": {"b": [3]}, "kept": "yes", "new": 7}


def test_served_storage_is_what_was_asked_for(served: Served) -> None:
    name = f"{served.name}-stored"
    storage = StorageConfig(on_disk=True, quantization="scalar", tenant_field="customer")
    with served.open() as store:
        store.create(name, storage.vectors(8), None, quantization=storage.quantization_config())
        for field, schema in payload_indexes(storage).items():
            for _ in range(2):  # an index that is there is what was asked for
                store.call(store.client.create_payload_index, name, field_name=field, field_schema=schema, wait=True)
        PointStore(store, name).upsert(points(20, 8, {"metadata": {"customer": "c"}}))
        found = store.call(
            store.client.query_points,
            name,
            query=points(20, 8, {})[7].vector.tolist(),
            limit=1,
            search_params=storage.search_params(),
        )
        assert found.points[0].id == str(UUID(int=7))
        request = models.QueryRequest(
            query=points(20, 8, {})[9].vector.tolist(), limit=1, params=storage.search_params(), with_payload=True
        )
        (several,) = store.call(store.client.query_batch_points, name, [request])
        assert [point.id for point in several.points] == [str(UUID(int=9))]
        info = store.call(store.client.get_collection, name)
        kept = info.config.quantization_config
        assert isinstance(kept, models.ScalarQuantization)
        assert (kept.scalar.type, kept.scalar.always_ram) == (models.ScalarType.INT8, True)
        assert kept.scalar.quantile == pytest.approx(0.99)  # gRPC carries a float32
        assert set(info.payload_schema) == set(payload_indexes(storage))
        tenant = info.payload_schema["metadata.customer"].params
        assert isinstance(tenant, models.KeywordIndexParams)
        assert tenant.is_tenant is True


def test_served_refusals_are_terminal(served: Served) -> None:
    name = f"{served.name}-strict"
    with served.open() as store:
        store.create(name, StorageConfig().vectors(4), None)
        with pytest.raises(StoreError, match="refused"):
            PointStore(store, name).upsert(points(1, 5, {}))
        with pytest.raises(StoreError, match="refused"):
            PointStore(store, f"{name}-not").count()
        alias = models.CreateAlias(collection_name=f"{name}-not", alias_name=f"{name}-alias")
        with pytest.raises(StoreError, match="refused"):
            store.call(store.client.update_collection_aliases, [models.CreateAliasOperation(create_alias=alias)])


def test_served_what_is_not_there_is_deleted_without_error(served: Served) -> None:
    name = f"{served.name}-gone"
    with served.open() as store:
        store.create(name, StorageConfig().vectors(4), None)
        there = PointStore(store, name)
        there.upsert(points(2, 4, {}))
        for _ in range(2):
            there.delete([str(UUID(int=0)), str(UUID(int=77))])
        assert there.existing([str(UUID(int=number)) for number in range(3)]) == {str(UUID(int=1))}
        for _ in range(2):
            store.call(store.client.delete_collection, name)
        assert not store.call(store.client.collection_exists, name)
