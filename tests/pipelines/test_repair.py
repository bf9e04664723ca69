"""Each kind of damage is planted with the client, found, named, and mended; what is whole is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from kvembed import KVEncoder
from pipelines import (
    ChunkingConfig,
    CollectionBusyError,
    Document,
    IngestReport,
    SourceError,
    TransientError,
    VerifyReport,
    ingest,
    open_collection,
    verify,
)
from pipelines.damage import is_provably_ours
from pipelines.lease import write_lease
from pipelines.ledger import Ledger, LedgerEntry
from pipelines.physical import resolve
from pipelines.point_store import PointStore
from pipelines.points import ledger_id, point_id, run_id
from pipelines.store import open_store
from pipelines.verification import verify_collection
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder
from tests.pipelines.stores import WatchedClient, contents

SMALL = ChunkingConfig(max_tokens=12)
FOREIGN = "12345678-1234-5678-1234-567812345678"


class Drifting(FakeEncoder):
    """The hashes agree, the arithmetic does not: another kernel, a broken build."""

    def _vector(self, text: str):  # type: ignore[no-untyped-def]
        vector = super()._vector(text)
        vector[0] += 0.2
        return vector


class Cutting(FakeEncoder):
    """Three tokens of every text do not fit."""

    def encode_counted(self, texts, role):  # type: ignore[no-untyped-def]
        encoding = super().encode_counted(texts, role)
        return replace(encoding, truncated_tokens=encoding.truncated_tokens + 3)


def documents() -> list[Document]:
    short = [Document(f"d{number}", f"word{number} tells of {number}.", f"d{number}.txt") for number in range(5)]
    paragraphs = "\n\n".join(f"Part{number} has a paragraph of its own with some words." for number in range(6))
    twice = "The same words again.\n\n" * 8
    return [
        *short,
        Document("long", paragraphs, "long.txt", "A title that is longer than its share of a chunk's few tokens"),
        Document("twice", twice, "twice.txt", "Twice", {"weight": 1.0, "tags": ["a", "b"], "none": None}),
        Document("empty", "", "empty.txt"),
    ]


def checked(client: WatchedClient, encoder: Any, **options: Any) -> VerifyReport:
    with open_collection(client, "notes", encoder=encoder) as collection:
        pinned = collection.pinned()
        return verify_collection(pinned.store, pinned.collection, pinned.encoder, **options)


class Shelf:
    """A filled collection, what it held when it was whole, and ways to damage it."""

    def __init__(self, kind: type[FakeEncoder] = FakeEncoder) -> None:
        self.client = WatchedClient()
        self.kind = kind
        self.index()
        self.whole = contents(self.client, "notes")
        self.physical: str = self.whole["physical"]

    def index(self) -> IngestReport:
        return ingest(documents(), self.client, "notes", self.kind(), chunking=SMALL)

    def verify(self, encoder: FakeEncoder | None = None, **options: Any) -> VerifyReport:
        return checked(self.client, encoder or self.kind(), **options)

    def points_of(self, document_id: str) -> list[str]:
        ids: list[str] = list(self.whole["ledger"][document_id][2])
        return ids

    def point(self, point: str) -> models.Record:
        return self.client.retrieve(self.physical, [point], with_vectors=True)[0]

    def entry(self, document_id: str) -> LedgerEntry:
        with open_store(self.client) as store:
            return Ledger(store, self.physical).get([document_id])[document_id]

    def put_entry(self, entry: LedgerEntry) -> None:
        with open_store(self.client) as store:
            Ledger(store, self.physical).put([entry], entry.generation)

    def set_vector(self, point: str, vector: Any) -> None:
        self.client.update_vectors(self.physical, [models.PointVectors(id=point, vector=vector)])

    def plant(self, point: str, payload: dict[str, Any] | None) -> None:
        vector = [1.0] * FakeEncoder.dimension
        self.client.upsert(self.physical, [models.PointStruct(id=point, vector=vector, payload=payload)])

    def set_text(self, point: str, text: str) -> None:
        self.client.set_payload(self.physical, {"page_content": text}, [point])

    def set_metadata(self, point: str, **values: object) -> None:
        self.client.set_payload(self.physical, values, [point], key="metadata")

    def forget_hashes(self) -> None:
        """Make the ledger one of a version that did not hash payloads."""
        with open_store(self.client) as store:
            ledger = Ledger(store, self.physical)
            ledger.put([replace(entry, payload_hash="") for entry in ledger.scan(brief=False)], 99)

    def is_whole(self) -> bool:
        return contents(self.client, "notes") == self.whole


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_verify_untouched_collection_is_ok_and_writes_nothing(shelf: Shelf) -> None:
    writes = len(shelf.client.writes)
    report = shelf.verify(full=True)
    assert report.ok
    assert (report.problems, report.remedies, report.found) == ((), (), ())
    assert report.checked_vectors == report.chunks == len(shelf.whole["points"])
    assert report.unchecked_vectors == 0
    assert shelf.verify(repair=True, source=documents()).ok
    assert shelf.client.writes[writes:] == []
    assert shelf.is_whole()


def test_verify_sample_is_as_large_as_asked_and_changes_with_the_runs(shelf: Shelf) -> None:
    assert shelf.verify(sample=7).checked_vectors == 7
    assert shelf.verify(sample=0).checked_vectors == 0
    assert shelf.verify().checked_vectors == min(64, len(shelf.whole["points"]))
    encoder = FakeEncoder()
    drawn = []
    for _ in range(2):
        start = len(encoder.texts)
        shelf.verify(encoder, sample=3)
        drawn.append(encoder.texts[start:])
    assert drawn[0] == drawn[1]
    with open_store(shelf.client) as store:
        ledger = Ledger(store, shelf.physical)
        ledger.put_run(replace(ledger.run(), generation=77))
    start = len(encoder.texts)
    shelf.verify(encoder, sample=3)
    assert encoder.texts[start:] != drawn[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sample": -1}, "sample is -1"), ({"source": "somewhere"}, "a source is read by a repair only")],
)
def test_verify_wrong_argument_is_refused(shelf: Shelf, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shelf.verify(**options)


def test_repair_with_a_source_that_is_not_there_mends_nothing(shelf: Shelf) -> None:
    shelf.client.delete(shelf.physical, [shelf.points_of("long")[2]])
    writes = len(shelf.client.writes)
    with pytest.raises(SourceError):
        shelf.verify(repair=True, source="no/such/folder")
    assert shelf.client.writes[writes:] == []


# Points that are missing, and documents whose payloads were altered: what the collection alone cannot give back.


def lose_a_point(shelf: Shelf) -> None:
    shelf.client.delete(shelf.physical, [shelf.points_of("long")[2]])


def alter_a_text(shelf: Shelf) -> None:
    shelf.set_text(shelf.points_of("long")[2], "Something else.")


def alter_metadata(shelf: Shelf) -> None:
    shelf.set_metadata(shelf.points_of("long")[2], start=1)


def alter_a_hash(shelf: Shelf) -> None:
    shelf.set_metadata(shelf.points_of("long")[2], content_hash="0" * 64)


def alter_an_owner(shelf: Shelf) -> None:
    shelf.set_metadata(shelf.points_of("long")[2], document_id="d0")


def clear_a_payload(shelf: Shelf) -> None:
    shelf.client.clear_payload(shelf.physical, [shelf.points_of("long")[2]])


def alter_text_and_vector(shelf: Shelf) -> None:
    alter_a_text(shelf)
    shelf.set_vector(shelf.points_of("long")[2], shelf.whole["vectors"][shelf.points_of("d0")[0]])


def alter_the_entrys_hash(shelf: Shelf) -> None:
    shelf.put_entry(replace(shelf.entry("long"), payload_hash="1" * 64))


@pytest.mark.parametrize(
    "damage",
    [
        lose_a_point,
        alter_a_text,
        alter_metadata,
        alter_a_hash,
        alter_an_owner,
        clear_a_payload,
        alter_text_and_vector,
        alter_the_entrys_hash,
    ],
)
@pytest.mark.parametrize("given", [True, False], ids=["with source", "without"])
def test_repair_document_that_must_be_written_again_is(
    shelf: Shelf, damage: Callable[[Shelf], None], given: bool
) -> None:
    damage(shelf)
    found = shelf.verify()
    assert not found.ok
    named = found.missing_documents if damage is lose_a_point else found.altered_documents
    assert named == ("long",)
    assert found.stray_points == 0
    assert "'long'" in found.problems[0]
    assert found.remedies == ("kvembed verify notes --repair --source SOURCE",)
    report = shelf.verify(repair=True, source=documents() if given else None)
    assert report.found == found.problems
    assert report.marked_documents == 1
    if given:
        assert (report.ok, report.problems, report.rewritten_documents) == (True, (), 1)
    else:
        assert not report.ok
        assert report.remedies == ("kvembed index SOURCE -c notes",)
        assert not shelf.entry("long").settled
        writes = len(shelf.client.writes)
        assert shelf.index().documents_changed == 1
        assert shelf.client.writes[writes:]
    assert shelf.verify(full=True).ok
    assert shelf.is_whole()


def test_repair_with_a_source_of_few_documents_keeps_the_others(shelf: Shelf) -> None:
    lose_a_point(shelf)
    long = [document for document in documents() if document.id == "long"]
    report = shelf.verify(repair=True, source=long)
    assert (report.ok, report.rewritten_documents) == (True, 1)
    assert shelf.is_whole()


def test_repair_of_a_collection_that_was_replaced_meanwhile_ends_and_writes_nothing(shelf: Shelf) -> None:
    lose_a_point(shelf)
    with open_collection(shelf.client, "notes", encoder=FakeEncoder()) as collection:
        pinned = collection.pinned()
        shelf.client.create_collection("other", vectors_config={})
        moved = models.CreateAlias(collection_name="other", alias_name="notes")
        shelf.client.update_collection_aliases([models.CreateAliasOperation(create_alias=moved)])
        writes = len(shelf.client.writes)
        with pytest.raises(TransientError, match="'notes' was rebuilt meanwhile"):
            verify_collection(pinned.store, pinned.collection, pinned.encoder, repair=True)
    assert {method for method, name in shelf.client.writes[writes:] if name.startswith(shelf.physical)} == set()


@pytest.mark.parametrize("damage", [alter_an_owner, clear_a_payload])
def test_verify_point_that_names_another_document_is_no_stray_where_its_own_is_far(
    shelf: Shelf, damage: Callable[[Shelf], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.damage._SCANNED", 1)
    damage(shelf)
    assert shelf.verify(sample=0).stray_ids == ()


def test_repair_altered_metadata_costs_no_embedding(shelf: Shelf) -> None:
    alter_metadata(shelf)
    shelf.verify(repair=True)
    report = shelf.index()
    assert (report.chunks_embedded, report.points_updated) == (0, 1)


@pytest.mark.parametrize("number", [5, "x", -1])
def test_repair_altered_count_of_cut_tokens_is_counted_again(shelf: Shelf, number: object) -> None:
    """A run that takes a vector over takes the number with it, so writing the document again would keep it."""
    shelf.set_metadata(shelf.points_of("long")[2], truncated_tokens=number)
    report = shelf.verify(repair=True)
    assert (report.altered_documents, report.ok, report.marked_documents) == (("long",), True, 0)
    assert shelf.is_whole()


def test_repair_lost_count_of_cut_tokens_is_counted_again() -> None:
    shelf = Shelf(Cutting)
    doomed = shelf.points_of("long")[2]
    assert shelf.whole["points"][doomed]["metadata"]["truncated_tokens"] == 3
    shelf.client.delete_payload(shelf.physical, ["metadata.truncated_tokens"], [doomed])
    assert not shelf.is_whole()
    shelf.set_metadata(shelf.points_of("long")[1], start=0)
    assert shelf.verify(repair=True, source=documents()).rewritten_documents == 1
    assert shelf.verify(full=True).ok
    assert shelf.is_whole()


def test_repair_of_old_ledger_without_hashes_goes_by_ids_and_texts(shelf: Shelf) -> None:
    shelf.forget_hashes()
    assert shelf.verify(full=True).ok
    alter_a_hash(shelf)
    assert shelf.verify(sample=0).altered_documents == ("long",)
    shelf.set_text(shelf.points_of("d3")[0], "Something else.")
    report = shelf.verify(full=True)
    assert set(report.altered_documents) == {"long", "d3"}
    report = shelf.verify(full=True, repair=True, source=documents())
    assert (report.marked_documents, report.rewritten_documents, report.ok) == (2, 2, True)
    assert shelf.is_whole()


# Vectors.


@pytest.mark.parametrize("kind", ["other", "zero", "permuted", "slight"])
def test_repair_altered_vector_is_embedded_again(shelf: Shelf, kind: str) -> None:
    (doomed,) = shelf.points_of("d2")
    good = np.array(shelf.whole["vectors"][doomed])
    vectors = {
        "other": np.array(shelf.whole["vectors"][shelf.points_of("d0")[0]]),
        "zero": np.zeros_like(good),
        "permuted": good[::-1],
        "slight": good + np.eye(len(good))[0] * 3e-4,
    }
    shelf.set_vector(doomed, vectors[kind].tolist())
    found = shelf.verify(full=True)
    assert not found.ok
    assert (found.altered_vectors, found.altered_vector_ids, found.altered_payloads) == (1, (doomed,), 0)
    assert f"first of point {doomed}" in found.problems[0]
    assert found.remedies == ("kvembed verify notes --repair",)
    report = shelf.verify(full=True, repair=True)
    assert (report.ok, report.problems, report.remedies) == (True, (), ())
    assert (report.altered_vectors, report.repaired_vectors, report.marked_documents) == (1, 1, 0)
    assert shelf.is_whole()


def test_verify_every_sample_catches_a_collection_that_is_shuffled_as_a_whole() -> None:
    """No point keeps its vector, so no draw misses; a sample of one finds it as surely as all do."""
    shelf = Shelf()
    every = list(shelf.whole["points"])
    for found in every:
        text = shelf.whole["points"][found]["page_content"]
        other = next(one for one in every if shelf.whole["points"][one]["page_content"] != text)
        shelf.set_vector(found, shelf.whole["vectors"][other])
    for sample in (1, 2, 5, 64):
        report = shelf.verify(sample=sample)
        assert report.altered_vectors == report.checked_vectors == min(sample, len(every))
    report = shelf.verify(sample=1, repair=True)
    assert (report.altered_vectors, report.repaired_vectors, report.ok) == (len(every), len(every), True)
    assert shelf.is_whole()


def test_verify_vector_that_differs_a_little_everywhere_is_altered() -> None:
    """Of bfloat16 each number may be off by 0.03; a vector that is off by nearly that in all is another text's."""
    encoder = FakeEncoder(FakeConfig(dtype="bfloat16"))
    client = WatchedClient()
    ingest(documents(), client, "notes", encoder, chunking=SMALL)  # type: ignore[arg-type]
    found = contents(client, "notes")
    one, other, *_ = found["points"]
    alternating = 0.025 * np.resize([1, -1], FakeEncoder.dimension)
    near = {one: found["vectors"][one] + alternating / 3, other: found["vectors"][other] + alternating}
    changed = [models.PointVectors(id=point, vector=vector.tolist()) for point, vector in near.items()]
    client.update_vectors(found["physical"], changed)
    assert checked(client, encoder, full=True).altered_vector_ids == (other,)


def test_repair_with_an_encoder_that_computes_otherwise_mends_nothing(shelf: Shelf) -> None:
    (doomed,) = shelf.points_of("d2")
    shelf.set_vector(doomed, shelf.whole["vectors"][shelf.points_of("d0")[0]])
    lose_a_point(shelf)
    writes = len(shelf.client.writes)
    report = shelf.verify(Drifting(FakeConfig()), full=True, repair=True, source=documents())
    assert not report.ok
    assert "canaries differ by" in report.problems[0]
    assert "so do" in report.problems[0]
    assert "nothing was mended" in report.problems[-1]
    assert report.repaired_vectors == 0
    assert shelf.client.writes[writes:] == []


def test_verify_other_encoder_in_hand_is_named_by_its_fingerprint(shelf: Shelf) -> None:
    other = FakeEncoder(FakeConfig(weights="weights-2"))
    with open_collection(shelf.client, "notes", encoder=FakeEncoder()) as collection:
        mistaken = replace(collection.pinned(), encoder=other)  # type: ignore[arg-type]
        report = mistaken.verify()
    assert not report.ok
    assert f"the encoder in hand has fingerprint {other.fingerprint[:12]}" in report.problems[0]
    assert report.checked_vectors == 0


def test_verify_altered_canaries_are_told_from_an_encoder_that_drifted(shelf: Shelf) -> None:
    with open_collection(shelf.client, "notes", encoder=FakeEncoder()) as collection:
        pinned = collection.pinned()
        manifest = pinned.manifest
        first, *rest = manifest.canaries
        altered = replace(manifest, canaries=(replace(first, vector=first.vector[::-1]), *rest))
        report = replace(pinned, collection=replace(pinned.collection, manifest=altered)).verify()
    assert not report.ok
    assert "the canaries in the manifest were altered" in report.problems[0]


@pytest.mark.parametrize("kind", ["dimension", "encoder"])
def test_verify_manifest_that_contradicts_the_collection_is_told(shelf: Shelf, kind: str) -> None:
    with open_collection(shelf.client, "notes", encoder=FakeEncoder()) as collection:
        pinned = collection.pinned()
        manifest = pinned.manifest
        altered = {
            "dimension": replace(manifest, dimension=31),
            "encoder": replace(manifest, encoder={**manifest.encoder, "prefix_bias": 2.0}),
        }[kind]
        described = replace(pinned.collection, manifest=altered)
        report = verify_collection(pinned.store, described, pinned.encoder, repair=True)
    said = {"dimension": "holds vectors of 32 numbers under Cosine", "encoder": "is not that of the encoder"}
    assert said[kind] in report.problems[0]
    assert "nothing was mended" in report.problems[-1]


def test_verify_text_that_cannot_be_made_again_accuses_nobody(shelf: Shelf) -> None:
    """Its hash is that of the ledger, so it is as it was written; another version may cut titles otherwise."""
    with open_collection(shelf.client, "notes", encoder=FakeEncoder()) as collection:
        pinned = collection.pinned()
        otherwise = replace(pinned.manifest, chunking={**pinned.manifest.chunking, "context": "none"})
        described = replace(pinned.collection, manifest=otherwise)
        report = verify_collection(pinned.store, described, pinned.encoder, full=True)
    assert report.ok
    assert report.unchecked_vectors >= len(shelf.points_of("long"))
    assert report.checked_vectors == report.chunks - report.unchecked_vectors


# Strays.


def our_stray(document_id: str, copy: int = 0) -> tuple[str, dict[str, Any]]:
    content_hash = "5" * 64
    metadata = {"document_id": document_id, "content_hash": content_hash, "title": "", "source": "x", "chunk_index": 9}
    return point_id(document_id, content_hash, copy), {"page_content": "stray", "metadata": metadata}


def test_repair_stray_of_a_whole_document_is_deleted_when_it_is_provably_ours(shelf: Shelf) -> None:
    stray, payload = our_stray("d1", 3)
    shelf.plant(stray, payload)
    found = shelf.verify()
    assert (found.stray_points, found.stray_ids, found.ok) == (1, (stray,), False)
    assert found.remedies == ("kvembed verify notes --repair",)
    report = shelf.verify(repair=True)
    assert (report.stray_points, report.deleted_strays, report.ok) == (1, 1, True)
    assert shelf.is_whole()


@pytest.mark.parametrize("payload", [None, {"page_content": "theirs"}, {"page_content": "x", "metadata": "none"}, "d1"])
def test_repair_foreign_stray_is_named_with_the_call_that_deletes_it(shelf: Shelf, payload: Any) -> None:
    shelf.plant(FOREIGN, our_stray("d1")[1] if payload == "d1" else payload)
    for repair in (False, True):
        report = shelf.verify(repair=repair)
        assert (report.stray_ids, report.deleted_strays, report.ok) == ((FOREIGN,), 0, False)
        assert FOREIGN in report.problems[0]
    assert report.remedies == (f"client.delete({shelf.physical!r}, points_selector=[{FOREIGN!r}])",)
    shelf.client.delete(shelf.physical, points_selector=[FOREIGN])
    assert shelf.is_whole()


def test_repair_foreign_stray_with_a_number_for_an_id_is_left(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server refuses the whole request where an id is the number's digits."""
    shelf.client.upsert(shelf.physical, [models.PointStruct(id=5, vector=[1.0] * FakeEncoder.dimension)])
    asked: list[str] = []
    payloads = PointStore.payloads
    monkeypatch.setattr(PointStore, "payloads", lambda self, ids: asked.extend(ids) or payloads(self, ids))
    report = shelf.verify(repair=True)
    assert (report.stray_ids, report.deleted_strays) == (("5",), 0)
    assert asked
    assert "5" not in asked


def test_verify_stray_and_missing_point_of_equal_number_are_both_found(shelf: Shelf) -> None:
    """A count alone, as a run over the source makes it, would not see them."""
    lose_a_point(shelf)
    stray, payload = our_stray("d1")
    shelf.plant(stray, payload)
    assert shelf.index().documents_changed == 0
    report = shelf.verify(repair=True)
    assert (report.missing_points, report.stray_points, report.deleted_strays) == (1, 1, 1)
    assert shelf.index().documents_changed == 1
    assert shelf.verify().ok
    assert shelf.is_whole()


# The ledger.


def test_repair_entry_of_a_run_that_never_was_can_be_written_again(shelf: Shelf) -> None:
    """An entry with a later run's number is never overwritten, so an altered number would keep the damage for good."""
    entry = replace(shelf.entry("long"), generation=10**6)
    shelf.put_entry(entry)
    lose_a_point(shelf)
    report = shelf.verify(repair=True, source=documents())
    assert (report.ok, report.rewritten_documents) == (True, 1)
    assert shelf.entry("long").generation < 10
    assert shelf.is_whole()


def test_repair_while_another_run_writes_is_refused_and_a_check_is_not(shelf: Shelf) -> None:
    lose_a_point(shelf)
    with open_store(shelf.client) as store, write_lease(store, "notes"):
        writes = [call for call in shelf.client.writes if call[1].startswith(shelf.physical)]
        assert shelf.verify().missing_points == 1
        with pytest.raises(CollectionBusyError, match="'notes' is being written by"):
            shelf.verify(repair=True)
        assert [call for call in shelf.client.writes if call[1].startswith(shelf.physical)] == writes
    assert shelf.verify(repair=True).marked_documents == 1


def test_repair_missing_entry_is_made_anew_and_searches_lose_nothing(shelf: Shelf) -> None:
    ledger = f"{shelf.physical}--ledger"
    shelf.client.delete(ledger, [ledger_id("long")])
    found = shelf.verify()
    assert set(found.stray_ids) == set(shelf.points_of("long"))
    report = shelf.verify(repair=True)
    assert (report.deleted_strays, report.restored_entries, report.marked_documents) == (0, 1, 1)
    assert report.remedies == ("kvembed index SOURCE -c notes",)
    assert shelf.entry("long").point_ids == tuple(shelf.points_of("long"))
    assert contents(shelf.client, "notes")["points"] == shelf.whole["points"]
    again = shelf.index()
    assert (again.documents_changed, again.chunks_embedded) == (1, 0)
    assert shelf.verify(full=True).ok
    assert shelf.is_whole()


def test_repair_missing_entry_with_the_source_is_ok_at_once(shelf: Shelf) -> None:
    shelf.client.delete(f"{shelf.physical}--ledger", [ledger_id("twice")])
    report = shelf.verify(repair=True, source=documents())
    assert (report.ok, report.restored_entries, report.rewritten_documents) == (True, 1, 1)
    assert shelf.is_whole()


@pytest.mark.parametrize("kept", [0, 2])
def test_repair_entry_that_lost_points_gets_them_back_and_is_settled(shelf: Shelf, kept: int) -> None:
    entry = shelf.entry("long")
    shelf.put_entry(replace(entry, point_ids=entry.point_ids[1 : 1 + kept]))
    assert shelf.verify().stray_points == len(entry.point_ids) - kept
    report = shelf.verify(repair=True)
    assert (report.ok, report.restored_entries, report.marked_documents, report.deleted_strays) == (True, 1, 0, 0)
    assert shelf.is_whole()


def test_repair_entry_without_hash_that_lost_points_never_deletes_them(shelf: Shelf) -> None:
    """They may be the document's; the run over its source knows."""
    entry = shelf.entry("long")
    shelf.put_entry(replace(entry, point_ids=entry.point_ids[1:], payload_hash=""))
    report = shelf.verify(repair=True)
    assert (report.deleted_strays, report.restored_entries) == (0, 1)
    shelf.index()
    assert shelf.is_whole()


@pytest.mark.parametrize("kept", [None, 3])
def test_repair_entry_that_names_anothers_point_lets_it_go(shelf: Shelf, kept: int | None) -> None:
    """The run that writes the document again would delete every point of the entry that it does not write."""
    entry = shelf.entry("long")
    shelf.put_entry(replace(entry, point_ids=(*entry.point_ids[:kept], *shelf.points_of("d0"))))
    report = shelf.verify(repair=True)
    assert (report.restored_entries, report.deleted_strays) == (1, 0)
    shelf.index()
    assert shelf.verify().ok
    assert shelf.is_whole()


def test_repair_ledger_that_is_gone_is_made_from_the_points(shelf: Shelf) -> None:
    shelf.client.delete_collection(f"{shelf.physical}--ledger")
    found = shelf.verify()
    assert "the ledger is gone" in found.problems[0]
    report = shelf.verify(repair=True, source=documents())
    assert (report.ok, report.deleted_strays) == (True, 0)
    assert shelf.verify(full=True).ok
    assert shelf.is_whole()


def test_verify_document_that_waits_to_be_written_again_is_told(shelf: Shelf) -> None:
    shelf.put_entry(replace(shelf.entry("d1"), settled=False))
    report = shelf.verify()
    assert (report.unsettled_documents, report.ok) == (1, False)
    assert "first 'd1'; index their source" in report.problems[0]


def test_repair_after_a_kill_deletes_what_was_not_committed(shelf: Shelf) -> None:
    """A document in flight without an entry was never searchable as a whole; its points go, as the next run would."""
    stray, payload = our_stray("new")
    shelf.plant(stray, payload)
    with open_store(shelf.client) as store:
        ledger = Ledger(store, shelf.physical)
        ledger.put_run(replace(ledger.run(), in_flight=("new",), finished_at=""))
    report = shelf.verify(repair=True)
    assert (report.deleted_strays, report.restored_entries) == (1, 0)
    assert report.interrupted
    assert not report.ok
    report = shelf.verify(repair=True, source=documents())
    assert report.ok
    assert not report.interrupted
    assert shelf.is_whole()


def test_repair_everything_at_once_equals_a_clean_build(shelf: Shelf) -> None:
    lose_a_point(shelf)
    shelf.set_text(shelf.points_of("d3")[0], "Something else.")
    shelf.set_metadata(shelf.points_of("twice")[1], title="Thrice")
    shelf.set_vector(shelf.points_of("d2")[0], [0.0] * FakeEncoder.dimension)
    shelf.plant(*our_stray("d1"))
    shelf.plant(*our_stray("twice"))
    shelf.client.delete(f"{shelf.physical}--ledger", [ledger_id("d4")])
    shelf.verify(repair=True, full=True)
    shelf.index()
    assert shelf.verify(full=True).ok
    assert shelf.is_whole()


def test_is_provably_ours_asks_for_the_id_that_the_payload_makes() -> None:
    stray, payload = our_stray("d1", 7)
    assert is_provably_ours(stray, payload)
    assert not is_provably_ours(FOREIGN, payload)
    assert not is_provably_ours(stray, {**payload, "metadata": {**payload["metadata"], "document_id": "d2"}})
    assert not is_provably_ours(run_id(), {})


def test_verify_real_encoder_finds_every_text_again(
    make_encoder: Callable[..., KVEncoder],
) -> None:
    """Titles are cut to their share, and vectors need not be of unit length; a stored one is."""
    encoder = make_encoder(normalize=False)
    client = WatchedClient()
    ingest(documents(), client, "notes", encoder, chunking=ChunkingConfig(max_tokens=24))
    report = checked(client, encoder, full=True)
    assert report.ok
    assert report.checked_vectors == report.chunks > 10
    assert report.unchecked_vectors == 0
    with open_store(client) as store:
        physical = resolve(store, "notes")
    assert physical is not None
    one, other = client.scroll(physical, limit=2, with_vectors=True)[0]
    client.update_vectors(physical, [models.PointVectors(id=one.id, vector=other.vector)])  # type: ignore[arg-type]
    assert checked(client, encoder, full=True).altered_vector_ids == (one.id,)
    assert checked(client, encoder, full=True, repair=True).ok


def test_verify_public_call_passes_every_option_on(tiny_encoder: KVEncoder) -> None:
    client = WatchedClient()
    ingest(documents(), client, "notes", tiny_encoder, chunking=ChunkingConfig(max_tokens=24))
    whole = contents(client, "notes")
    assert verify(client, "notes", sample=3).checked_vectors == 3
    assert verify(client, "notes", full=True).checked_vectors == len(whole["points"])
    client.delete(whole["physical"], [whole["ledger"]["long"][2][1]])
    report = verify(client, "notes", repair=True, source=documents(), wait=0.1)
    assert (report.ok, report.rewritten_documents) == (True, 1)
    assert contents(client, "notes") == whole
    with pytest.raises(ValueError, match="sample is -1"):
        verify(client, "no such collection", sample=-1)


def test_verify_documents_that_moved_are_whole(shelf: Shelf) -> None:
    moved = [replace(document, id=f"new/{document.id}", source="elsewhere") for document in documents()]
    ingest(moved, shelf.client, "notes", FakeEncoder(), chunking=SMALL, delete="all")  # type: ignore[arg-type]
    report = shelf.verify(full=True)
    assert report.ok
    assert report.unchecked_vectors == 0
