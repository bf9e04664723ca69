"""What one run does to a collection, document by document."""

from __future__ import annotations

import re
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import models

from pipelines import (
    Chunk,
    ChunkingConfig,
    DeletionGuard,
    DeletionGuardError,
    Document,
    EncoderMismatchError,
    ForeignCollectionError,
    IngestReport,
    InvalidCollectionNameError,
    ManifestError,
    RejectedDocument,
    SourceError,
    StoreFullError,
    StoreLockedError,
    TooManyQuarantinedError,
    ingest,
    open_collection,
    plan,
    status,
)
from pipelines.chunking import Chunker
from pipelines.ledger import Ledger
from pipelines.physical import resolve
from pipelines.store import open_store
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder, FakeEncoding
from tests.pipelines.stores import Crash, WatchedClient, contents

SMALL = ChunkingConfig(max_tokens=12)


def documents(count: int) -> list[Document]:
    return [
        Document(f"d{number}", f"word{number} tells of number {number}.", f"d{number}.txt") for number in range(count)
    ]


def long_document(sections: list[str], identifier: str = "long") -> Document:
    text = "\n\n".join(f"{section} has a paragraph of its own with some words." for section in sections)
    return Document(identifier, text, f"{identifier}.txt")


class Source:
    """Yields what it is given, and may fail at its end."""

    description = "a test"

    def __init__(self, found: list[Document | RejectedDocument], *, fails: bool = False) -> None:
        self.found = found
        self.fails = fails

    def documents(self) -> Iterator[Document | RejectedDocument]:
        yield from self.found
        if self.fails:
            raise SourceError("the listing broke off")


def run(client: WatchedClient, found: list[Any], encoder: FakeEncoder | None = None, **options: Any) -> IngestReport:
    options.setdefault("chunking", SMALL)
    return ingest(Source(found), client, "notes", encoder or FakeEncoder(), **options)


def search(client: WatchedClient, query: str, limit: int = 3) -> list[str]:
    with open_collection(client, "notes", encoder=FakeEncoder()) as collection:
        return [hit.document_id for hit in collection.search(query, limit)]


def test_ingest_first_run_makes_everything_searchable() -> None:
    client = WatchedClient()
    report = run(client, documents(5))
    assert (report.documents_added, report.documents_changed, report.documents_unchanged) == (5, 0, 0)
    assert report.points_written == report.chunks_embedded == 5
    assert report.tokens > 0
    assert search(client, "word3 number", 1) == ["d3"]


def test_ingest_second_run_embeds_nothing_and_writes_nothing() -> None:
    client, encoder = WatchedClient(), FakeEncoder()
    bad = RejectedDocument("bad", "bad.txt", "hash", "parse", "not text")
    run(client, [*documents(5), bad], encoder)
    writes, texts = len(client.writes), len(encoder.texts)
    report = run(client, [*documents(5), bad], encoder)
    assert client.writes[writes:] == []
    assert encoder.texts[texts:] == []
    assert report.documents_unchanged == 5
    assert report.documents_quarantined == 1


def test_ingest_commits_after_the_points_and_deletes_after_the_commit() -> None:
    client = WatchedClient()
    run(client, [long_document(["Alpha", "Beta"])])
    before = len(client.writes)
    run(client, [long_document(["Alpha", "Gamma"])])
    physical = contents(client, "notes")["physical"]
    ledger = f"{physical}--ledger"
    assert client.writes[before:] == [
        ("upsert", "notes--control"),  # the lease
        ("upsert", ledger),  # in flight
        ("upsert", physical),  # new points
        ("upsert", ledger),  # the commit
        ("delete", physical),  # old points
        ("upsert", ledger),  # nothing in flight
        ("upsert", "notes--control"),  # the lease again
    ]


def test_ingest_changed_document_leaves_no_stale_chunk() -> None:
    changed, clean = WatchedClient(), WatchedClient()
    run(changed, [long_document(["Alpha", "Beta", "Gamma"]), *documents(3)])
    new = [long_document(["Alpha", "Delta"]), *documents(3)]
    report = run(changed, new)
    run(clean, new)
    assert report.documents_changed == 1
    assert contents(changed, "notes") == contents(clean, "notes")


def test_ingest_edit_in_the_middle_embeds_what_changed_and_moves_the_rest() -> None:
    client, clean, encoder = WatchedClient(), WatchedClient(), FakeEncoder()
    sections = [f"Part{number}" for number in range(200)]
    first = run(client, [long_document(sections)], encoder)
    assert first.chunks_embedded >= 200
    texts = len(encoder.texts)
    sections[100:101] = ["Inserted", "Other"]
    second = run(client, [long_document(sections)], encoder)
    run(clean, [long_document(sections)])
    assert second.chunks_embedded == len(encoder.texts) - texts <= 4
    assert second.points_updated >= 99  # everything behind the edit stands elsewhere now
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_document_gone_from_the_source_is_deleted() -> None:
    client, clean = WatchedClient(), WatchedClient()
    run(client, documents(3))
    report = run(client, documents(2))
    run(clean, documents(2))
    assert (report.documents_deleted, report.points_deleted) == (1, 1)
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_most_of_the_source_gone_is_refused_before_anything_is_written() -> None:
    client = WatchedClient()
    run(client, documents(20))
    before, writes = contents(client, "notes"), len(client.writes)
    new = Document("new", "not to be added either", "new.txt")
    with pytest.raises(
        DeletionGuardError, match=r"15 of 20 documents \(75%\).*first 'd10', .*`--delete all`"
    ) as caught:
        run(client, [*documents(5), new])
    assert len(caught.value.first_ids) == 5
    assert client.writes[writes:] == []
    assert contents(client, "notes") == before


def test_ingest_delete_all_and_none_are_obeyed() -> None:
    client = WatchedClient()
    run(client, documents(20))
    assert run(client, documents(5), delete="none").documents_deleted == 0
    assert run(client, documents(5), delete="all").documents_deleted == 15
    with pytest.raises(ValueError, match="delete is 'some'; legal are guarded, all, none"):
        run(client, documents(5), delete="some")


@pytest.mark.parametrize(
    ("doomed", "known", "allowed"),
    [
        (0, 0, True),
        (1, 1, False),
        (1, 2, True),
        (1, 3, True),
        (5, 5, False),
        (5, 6, True),
        (6, 6, False),
        (6, 30, True),
        (7, 30, False),
        (100, 10_000, True),
        (101, 10_000, False),
    ],
)
def test_deletion_guard_bites_on_share_or_count_but_leaves_small_collections_usable(
    doomed: int, known: int, allowed: bool
) -> None:
    assert DeletionGuard().allows(doomed, known) is allowed


def test_deletion_guard_of_any_share_keeps_the_last_document() -> None:
    assert DeletionGuard(share=1.0).allows(6, 7)
    assert not DeletionGuard(share=1.0).allows(7, 7)


def test_ingest_other_source_into_a_small_collection_is_refused() -> None:
    """One file after another into the same collection: each would silently replace the one before."""
    client = WatchedClient()
    run(client, [Document("a", "the first file", "a.txt")])
    writes = len(client.writes)
    second = [Document("b", "the second file", "b.txt")]
    with pytest.raises(DeletionGuardError, match=r"1 of 1 documents \(100%\).*pass `--delete none`"):
        run(client, second)
    assert client.writes[writes:] == []
    assert run(client, second, delete="none").documents_added == 1
    assert search(client, "first", 1) == ["a"]


def test_ingest_source_that_breaks_off_deletes_nothing() -> None:
    client = WatchedClient()
    run(client, documents(4))
    before, writes = contents(client, "notes"), len(client.writes)
    with pytest.raises(SourceError, match="broke off"):
        ingest(Source(documents(1), fails=True), client, "notes", FakeEncoder(), chunking=SMALL, delete="all")
    assert client.writes[writes:] == []
    assert contents(client, "notes") == before


def test_ingest_source_that_breaks_off_on_the_second_reading_deletes_nothing() -> None:
    client = WatchedClient()
    run(client, documents(4))

    class Fickle(Source):
        readings = 0

        def documents(self) -> Iterator[Document | RejectedDocument]:
            self.readings += 1
            yield from documents(2)
            yield Document("new", "something new", "new.txt")
            if self.readings == 2:
                raise SourceError("gone away")

    with pytest.raises(SourceError, match="gone away"):
        ingest(Fickle([]), client, "notes", FakeEncoder(), chunking=SMALL)
    assert set(contents(client, "notes")["ledger"]) >= {"d0", "d1", "d2", "d3"}


def test_ingest_document_that_comes_back_between_plan_and_run_is_kept() -> None:
    client = WatchedClient()
    run(client, documents(3))

    class Late(Source):
        readings = 0

        def documents(self) -> Iterator[Document | RejectedDocument]:
            self.readings += 1
            yield Document("new", "something new", "new.txt")
            yield from documents(2 if self.readings == 1 else 3)

    assert ingest(Late([]), client, "notes", FakeEncoder(), chunking=SMALL).documents_deleted == 0
    assert search(client, "word2 tells of number 2.", 1) == ["d2"]


def test_ingest_rejected_document_stays_searchable_in_its_old_form() -> None:
    client = WatchedClient()
    run(client, documents(3))
    damaged = RejectedDocument("d1", "d1.txt", "other-hash", "parse", "not UTF-8; save it as UTF-8")
    report = run(client, [documents(3)[0], damaged, documents(3)[2]])
    assert (report.documents_deleted, report.documents_quarantined) == (0, 1)
    assert search(client, "word1", 1) == ["d1"]
    (listed,) = status(client, "notes")[0].quarantined
    assert (listed.document_id, listed.stage, listed.reason) == ("d1", "parse", "not UTF-8; save it as UTF-8")
    healed = run(client, documents(3))
    assert (healed.documents_changed, healed.chunks_embedded, healed.documents_quarantined) == (1, 0, 0)
    assert status(client, "notes")[0].quarantined == ()


def test_ingest_quarantined_document_that_is_gone_is_forgotten() -> None:
    client = WatchedClient()
    run(client, [*documents(1), RejectedDocument("bad", "bad", "h", "read", "unreadable")])
    report = run(client, documents(1))
    assert (report.documents_deleted, report.documents_quarantined) == (0, 0)
    assert set(contents(client, "notes")["ledger"]) == {"d0"}


def test_ingest_duplicate_id_keeps_the_first_and_reports_the_second() -> None:
    client = WatchedClient()
    second = Document("d0", "an impostor with the same id", "copy.txt")
    for _ in range(2):
        report = run(client, [*documents(2), second])
        assert [(found.document_id, found.source) for found in report.quarantined] == [("d0", "copy.txt")]
        assert "has the id 'd0' already" in report.quarantined[0].reason
    assert search(client, "word0", 1) == ["d0"]
    assert len(contents(client, "notes")["points"]) == 2


def test_ingest_document_of_nan_is_quarantined_alone_and_tried_again_when_it_changes() -> None:
    client, encoder = WatchedClient(), FakeEncoder(poison="word1")
    report = run(client, documents(3), encoder)
    assert (report.documents_added, report.documents_quarantined) == (2, 1)
    assert (report.quarantined[0].document_id, report.quarantined[0].stage) == ("d1", "embed")
    texts, writes = len(encoder.texts), len(client.writes)
    again = run(client, documents(3), encoder)
    assert again.documents_quarantined == 1
    assert (len(encoder.texts), len(client.writes)) == (texts, writes)
    healed = run(client, [*documents(1), Document("d1", "healthy now", "d1.txt"), documents(3)[2]], encoder)
    assert (healed.documents_added, healed.documents_quarantined) == (1, 0)


def test_ingest_failing_chunks_of_a_long_document_leave_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first chunks are stored before its last is encoded; they must go again, and its old form must stay."""
    monkeypatch.setattr("pipelines.writer._SMALLEST_GROUP", 4)
    client, clean = WatchedClient(), WatchedClient()
    old = long_document([f"Part{number}" for number in range(30)])
    run(client, [old, *documents(2)])
    run(clean, [old, *documents(2)])
    worse = long_document(["Part7"] + [f"New{number}" for number in range(30)] + ["poison"])
    report = run(client, [worse, *documents(2)], FakeEncoder(poison="poison"))
    assert report.documents_quarantined == 1
    after, before = contents(client, "notes"), contents(clean, "notes")
    assert after["points"].keys() == before["points"].keys()
    assert after["ledger"]["long"][2] == before["ledger"]["long"][2]
    run(client, [old, *documents(2)])
    assert contents(client, "notes") == before


class BrokenEncoder(FakeEncoder):
    """Fails on every document; canaries, which a collection is made with, still work."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def encode_document(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return FakeEncoder().encode_document(texts)

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        raise self.error


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ingest_encoder_that_always_fails_ends_the_run(count: int) -> None:
    """A quarantined document is not tried again until it changes, so it must not pay for a broken encoder."""
    client = WatchedClient()
    with pytest.raises(ValueError, match="no sense"):
        run(client, documents(count), BrokenEncoder(ValueError("the model makes no sense")))
    report = run(client, documents(count))
    assert (report.documents_added, report.documents_quarantined) == (count, 0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ingest_group_of_bad_documents_alone_is_quarantined(count: int) -> None:
    """A later run may meet nothing but bad documents, and the encoder still embeds everything else."""
    client = WatchedClient()
    good = Document("good", "a healthy text", "good.txt")
    run(client, [good])
    report = run(client, [good, *documents(count)], FakeEncoder(poison="tells"))
    assert (report.documents_added, report.documents_quarantined) == (0, count)
    assert search(client, "healthy", 1) == ["good"]


class AcceleratorError(RuntimeError):
    """Named as the one of PyTorch 2.9."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("CUDA error: device-side assert triggered"),
        AcceleratorError("unspecified launch failure"),
    ],
    ids=str,
)
def test_ingest_device_that_fails_on_one_changed_document_blames_no_document(error: Exception) -> None:
    """Only its document meets the failure, so nothing but the message tells the machine from the document."""

    class Failing(FakeEncoder):
        def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
            if any("changed" in text for text in texts):
                raise error
            return super().encode_counted(texts, role)

    client = WatchedClient()
    run(client, documents(3))
    found = [*documents(2), Document("d2", "changed now", "d2.txt")]
    with pytest.raises(type(error), match=re.escape(str(error))):
        run(client, found, Failing())
    report = run(client, found)
    assert (report.documents_changed, report.documents_quarantined) == (1, 0)


class BadCut(Chunker):
    """Breaks off after the first chunk of one document."""

    def chunks(self, document: Document) -> Iterator[Chunk]:
        for chunk in super().chunks(document):
            yield chunk
            if document.id == "d1":
                raise RuntimeError("the splitter gave up")


@pytest.mark.parametrize("layers", ["auto", (2,)])
def test_ingest_document_that_cannot_be_cut_is_quarantined_alone(
    monkeypatch: pytest.MonkeyPatch, layers: str | tuple[int, ...]
) -> None:
    """With layers "auto" the first pass cuts documents for its sample, where nothing can be quarantined yet."""
    monkeypatch.setattr("pipelines.ingest_run.Chunker", BadCut)
    report = run(WatchedClient(), documents(3), FakeEncoder(FakeConfig(layers=layers)))
    assert (report.documents_added, report.documents_quarantined) == (2, 1)
    assert (report.quarantined[0].document_id, report.quarantined[0].stage) == ("d1", "chunk")
    assert report.quarantined[0].reason == "RuntimeError: the splitter gave up"


def test_plan_document_that_cannot_be_cut_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest_run.Chunker", BadCut)
    found = plan(Source([*documents(3)]), WatchedClient(), "notes", FakeEncoder(), chunking=SMALL)
    assert (len(found.added), found.chunks_to_embed) == (3, 2)


def test_ingest_empty_document_is_counted_and_not_seen_again() -> None:
    client = WatchedClient()
    found = [*documents(1), Document("empty", "  \n", "empty.txt")]
    assert run(client, found).documents_empty == 1
    writes = len(client.writes)
    assert run(client, found).documents_unchanged == 2
    assert client.writes[writes:] == []


@pytest.mark.parametrize(
    ("config", "field", "stored", "given"),
    [
        (FakeConfig(layers=(3,)), "layers", [2], [3]),
        (FakeConfig(prefix_bias=0.5), "prefix_bias", 1.0, 0.5),
        (FakeConfig(weights="other", model="other"), "weights_sha256", "weights-1", "other"),
    ],
)
def test_ingest_other_encoder_is_refused_naming_both_values(
    config: FakeConfig, field: str, stored: object, given: object
) -> None:
    client = WatchedClient()
    run(client, documents(1))
    writes = len(client.writes)
    with pytest.raises(EncoderMismatchError, match="collection 'notes' was filled differently") as caught:
        run(client, documents(2), FakeEncoder(config), on_change="refuse")
    assert caught.value.differences[field] == (stored, given)
    assert f"{field}: stored {stored!r}, given {given!r}" in str(caught.value)
    assert client.writes[writes:] == []


def test_ingest_other_chunking_is_refused_naming_both_values() -> None:
    client = WatchedClient()
    run(client, documents(1))
    with pytest.raises(EncoderMismatchError, match=r"chunking\.max_tokens: stored 12, given 20"):
        run(client, documents(1), chunking=ChunkingConfig(max_tokens=20), on_change="refuse")


def test_ingest_no_chunking_named_adopts_the_stored_one() -> None:
    """Who names none has not asked for the default; a new collection takes that."""
    client, clean = WatchedClient(), WatchedClient()
    run(client, [long_document(["Alpha", "Beta"])])
    found = [long_document(["Alpha", "Gamma", "Delta"])]
    assert plan(Source([*found]), client, "notes", FakeEncoder()).changed == ("long",)
    assert run(client, found, chunking=None).documents_changed == 1
    run(clean, found)
    assert contents(client, "notes") == contents(clean, "notes")
    run(fresh := WatchedClient(), found, chunking=None)
    with open_collection(fresh, "notes", encoder=FakeEncoder()) as collection:
        assert collection.manifest.chunking == ChunkingConfig().to_dict()


def test_ingest_same_model_under_another_name_is_the_same_encoder() -> None:
    client = WatchedClient()
    run(client, documents(1))
    assert run(client, documents(1), FakeEncoder(FakeConfig(model="moved"))).documents_unchanged == 1


def test_ingest_collection_of_someone_else_is_refused_and_untouched() -> None:
    client = WatchedClient()
    client.create_collection("notes", vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
    with pytest.raises(ForeignCollectionError, match=r"not made by kvembed.*nothing was changed"):
        run(client, documents(1))
    client.update_collection_aliases(
        [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name="notes", alias_name="alias of theirs")
            )
        ]
    )
    writes = len(client.writes)
    with pytest.raises(ForeignCollectionError, match="carries no manifest"):
        ingest(documents(1), client, "alias of theirs", FakeEncoder())
    assert client.writes[writes:] == []


def test_ingest_manifest_of_a_newer_version_is_refused_and_untouched() -> None:
    client = WatchedClient()
    run(client, documents(1))
    physical = contents(client, "notes")["physical"]
    client.update_collection(physical, metadata={"kvembed": {"schema_version": 99}})
    writes = len(client.writes)
    with pytest.raises(ManifestError, match=r"schema version 99 and this kvembed reads up to 1.*upgrade kvembed"):
        run(client, documents(1))
    assert client.writes[writes:] == []


def test_ingest_bad_name_is_refused_before_the_source_is_opened() -> None:
    with pytest.raises(InvalidCollectionNameError, match="contains '/'"):
        ingest("/nowhere", WatchedClient(), "a/b", FakeEncoder())


def test_ingest_missing_source_makes_no_collection() -> None:
    client = WatchedClient()
    with pytest.raises(SourceError, match="no file or folder"):
        ingest("/nowhere/at/all", client, "notes", FakeEncoder())
    assert client.writes == []


def test_ingest_layers_auto_are_chosen_once_and_kept() -> None:
    client = WatchedClient()
    auto = FakeEncoder(FakeConfig(layers="auto"))
    first = run(client, documents(30), auto)
    assert first.layers == (4,)
    assert first.warnings == ()
    with open_store(client) as store:
        physical = resolve(store, "notes")
    assert physical is not None
    metadata = client.get_collection(physical).config.metadata
    assert metadata is not None
    assert metadata["kvembed"]["layer_profile"]["texts"] == 30
    writes = len(client.writes)
    second = run(client, documents(30), auto)
    assert second.layers == (4,)
    assert client.writes[writes:] == []


def test_ingest_layers_auto_do_not_depend_on_the_order_of_the_source() -> None:
    forward, backward = WatchedClient(), WatchedClient()
    auto = FakeEncoder(FakeConfig(layers="auto"))
    run(forward, documents(30), auto)
    run(backward, documents(30)[::-1], auto)
    assert contents(forward, "notes") == contents(backward, "notes")


def test_ingest_layers_auto_of_a_small_corpus_warns_and_takes_half_depth() -> None:
    report = run(WatchedClient(), documents(3), FakeEncoder(FakeConfig(layers="auto")))
    assert report.layers == (4,)
    assert "taken at half depth" in report.warnings[0]


def test_plan_says_what_ingest_then_does_and_writes_nothing() -> None:
    client, encoder = WatchedClient(), FakeEncoder()
    run(client, documents(4), encoder)
    bad = RejectedDocument("bad", "bad.txt", "hash", "parse", "no")
    new = [*documents(2), Document("d2", "changed now", "d2.txt"), Document("d9", "added", "d9.txt"), bad]
    writes, texts = len(client.writes), len(encoder.texts)
    found = plan(Source([*new]), client, "notes", encoder, chunking=SMALL)
    assert (found.added, found.changed, found.unchanged, found.deleted) == (("d9",), ("d2",), 2, ("d3",))
    assert found.chunks_to_embed == 2
    assert [item.document_id for item in found.quarantined] == ["bad"]
    assert (len(client.writes), len(encoder.texts)) == (writes, texts)
    report = run(client, [*new], encoder)
    assert report.documents_added == len(found.added)
    assert report.documents_changed == len(found.changed)
    assert report.documents_deleted == len(found.deleted)
    assert (report.chunks_embedded, report.tokens) == (found.chunks_to_embed, found.tokens_to_embed)
    assert report.chunks_embedded == found.chunks_to_embed
    assert plan(Source([*new]), client, "notes", encoder, chunking=SMALL).changes_nothing


def test_ingest_progress_counts_up_to_its_totals() -> None:
    seen: list[tuple[str, int, int | None]] = []
    client = WatchedClient()
    run(client, documents(70))
    run(
        client,
        [*documents(60), Document("new", "x", "x")],
        delete="all",
        progress=lambda *step: seen.append(step),
    )
    assert ("plan", 61, None) in seen
    assert ("embed", 1, 1) in seen
    assert ("delete", 10, 10) in seen


def test_ledger_reads_back_what_it_wrote() -> None:
    client = WatchedClient()
    run(client, [*documents(2), RejectedDocument("bad", "bad.txt", "hash", "parse", "no")])
    with open_store(client) as store:
        physical = resolve(store, "notes")
        assert physical is not None
        ledger = Ledger(store, physical)
        full, brief = ledger.get(["d0", "bad", "none"]), ledger.get(["d0"], brief=True)
        assert set(full) == {"d0", "bad"}
        assert full["d0"].status == "committed"
        assert len(full["d0"].point_ids) == 1
        assert brief["d0"].point_ids == ()
        assert full["bad"].quarantine is not None
        assert [entry.document_id for entry in ledger.scan(quarantined=True)] == ["bad"]
        assert ledger.run().finished_at


def test_plan_of_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    found = plan(documents(3), tmp_path / "store", "notes", FakeEncoder(), chunking=SMALL)
    assert len(found.added) == 3
    assert not (tmp_path / "store").exists()


@pytest.mark.alone
def test_ingest_memory_does_not_grow_with_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty documents of 400 kB: held at once they would take 24 MB, four times what a run may hold."""
    monkeypatch.setattr("pipelines.planning._CHARACTERS", 1_000_000)
    monkeypatch.setattr("pipelines.writer._CHARACTERS", 1_000_000)

    class Large(Source):
        def documents(self) -> Iterator[Document | RejectedDocument]:
            for number in range(60):
                yield Document(f"d{number}", f"word{number}" + " " * 400_000, f"d{number}.txt")

    class FirstWord:
        def __init__(self, *_: object) -> None:
            pass

        def chunks(self, document: Document) -> Iterator[Chunk]:
            word = document.text[:5]
            yield Chunk(document.id, 0, word, 0, len(word), (), word)

    monkeypatch.setattr("pipelines.ingest_run.Chunker", FirstWord)
    client = WatchedClient()
    run(client, [Document("first", "first", "first.txt")])  # loads what is loaded on first use
    tracemalloc.start()
    report = ingest(Large([]), client, "notes", FakeEncoder(), chunking=SMALL, delete="none")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.documents_added == 60
    assert peak < 6_000_000


def test_ingest_into_a_full_disk_says_so_and_the_next_run_continues(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        ingest(documents(2), store, "notes", FakeEncoder(), chunking=SMALL)
        physical = resolve(store, "notes")
        assert physical is not None
        persistence = store.client._client.collections[physical].storage  # type: ignore[attr-defined]
        (pages,) = persistence.storage.execute("PRAGMA page_count").fetchone()
        persistence.storage.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
        with pytest.raises(StoreFullError, match=r"no space is left .*what was committed stays"):
            ingest(documents(200), store, "notes", FakeEncoder(), chunking=SMALL)
        persistence.storage.execute("PRAGMA max_page_count = 1000000").fetchall()
    with open_store(tmp_path / "store") as store:
        assert {"d0", "d1"} <= set(contents(store.client, "notes")["ledger"])
        ingest(documents(200), store, "notes", FakeEncoder(), chunking=SMALL)
        clean = WatchedClient()
        run(clean, documents(200))
        assert contents(store.client, "notes") == contents(clean, "notes")


def test_ingest_renamed_document_keeps_its_vectors_and_is_never_missing() -> None:
    client, encoder = WatchedClient(), FakeEncoder()
    text = "\n\n".join(f"Paragraph {number} has some words of its own." for number in range(8))
    run(client, [Document("old", text, "old.txt"), *documents(3)], encoder)
    renamed = [Document("new/name", text, "new/name.txt"), *documents(3)]
    planned = plan(renamed, client, "notes", encoder, chunking=SMALL)
    assert planned.moved == (("old", "new/name"),)
    assert (planned.added, planned.deleted) == ((), ())
    texts = len(encoder.texts)
    report = run(client, renamed, encoder)
    assert encoder.texts[texts:] == []
    assert (report.documents_moved, report.documents_added, report.documents_deleted) == (1, 0, 0)
    assert (report.chunks_embedded, report.chunks_reused) == (0, 8)
    run(clean := WatchedClient(), renamed)
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_folder_renamed_as_a_whole_is_no_mass_deletion() -> None:
    client = WatchedClient()
    run(client, documents(30))
    renamed = [Document(f"folder/{one.id}", one.text, f"folder/{one.source}") for one in documents(30)]
    report = run(client, renamed)
    assert (report.documents_moved, report.chunks_embedded) == (30, 0)
    run(clean := WatchedClient(), renamed)
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_rename_cut_short_at_any_write_converges_though_deletion_is_guarded() -> None:
    """After the kill some documents are there under both ids; the old ones are copies, and no loss."""
    renamed = [Document(f"folder/{one.id}", one.text, f"folder/{one.source}") for one in documents(40)]
    run(clean := WatchedClient(), renamed)
    cut = 0
    while True:
        client = WatchedClient()
        run(client, documents(40))
        client.crash_at, client.applied = len(client.writes) + cut, True
        try:
            run(client, renamed)
        except Crash:
            client.crash_at = None
        else:
            break
        assert set(search(client, "word7 number", 50)) & {"d7", "folder/d7"}
        run(client, renamed)
        assert contents(client, "notes") == contents(clean, "notes"), f"after a crash at write {cut}"
        cut += 1
    assert cut >= 8


def test_ingest_copy_under_another_id_is_an_addition() -> None:
    client = WatchedClient()
    run(client, documents(2))
    copy = Document("copy", documents(1)[0].text, "copy.txt")
    report = run(client, [*documents(2), copy])
    assert (report.documents_added, report.documents_moved) == (1, 0)


def test_ingest_rename_with_delete_none_keeps_both() -> None:
    client = WatchedClient()
    run(client, documents(1))
    report = run(client, [Document("new", documents(1)[0].text, "new.txt")], delete="none")
    assert (report.documents_added, report.documents_moved, report.documents_deleted) == (1, 0, 0)
    assert set(search(client, "word0", 5)) == {"d0", "new"}


def test_ingest_renamed_and_edited_points_are_not_trusted_blindly() -> None:
    """A vector is taken over only from a point that still says it is of the very text."""
    client, encoder = WatchedClient(), FakeEncoder()
    run(client, documents(2))
    physical = contents(client, "notes")["physical"]
    (point,) = [one for one in client.scroll(physical)[0] if one.payload and "word0" in one.payload["page_content"]]
    client.set_payload(physical, {"page_content": "altered by somebody"}, points=[point.id])
    renamed = [Document("new", documents(1)[0].text, "new.txt"), documents(2)[1]]
    report = run(client, renamed, encoder)
    assert (report.documents_moved, report.chunks_embedded) == (1, 1)
    run(clean := WatchedClient(), renamed)
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_quarantined_document_is_tried_again_when_asked() -> None:
    client = WatchedClient()
    poisoned = FakeEncoder(poison="word1")
    assert run(client, documents(3), poisoned).documents_quarantined == 1
    healed = FakeEncoder()
    assert run(client, documents(3), healed).documents_quarantined == 1
    assert healed.texts == []
    report = run(client, documents(3), healed, retry_quarantined=True)
    assert (report.documents_quarantined, report.documents_added) == (0, 1)
    run(clean := WatchedClient(), documents(3))
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_with_more_failures_than_allowed_ends_and_keeps_what_it_committed() -> None:
    client = WatchedClient()
    found = [*documents(100), *[Document(f"bad{number}", f"poison {number}", "bad.txt") for number in range(40)]]
    with pytest.raises(TooManyQuarantinedError, match=r"documents of this run .* 5 are allowed, first: 'b") as caught:
        run(client, found, FakeEncoder(poison="poison"), max_quarantined=5)
    assert caught.value.count > 5
    assert len(contents(client, "notes")["ledger"]) >= 100
    report = run(client, found, FakeEncoder(), retry_quarantined=True)
    assert report.documents_unchanged >= 90
    run(clean := WatchedClient(), found)
    assert contents(client, "notes") == contents(clean, "notes")


def test_ingest_with_more_unreadable_documents_than_allowed_writes_nothing() -> None:
    client = WatchedClient()
    bad = [RejectedDocument(f"bad{number}", "bad.pdf", f"hash{number}", "parse", "not a PDF") for number in range(4)]
    with pytest.raises(TooManyQuarantinedError, match="4 documents"):
        run(client, [*documents(3), *bad], max_quarantined=3)
    assert client.writes == []
    assert run(client, [*documents(3), *bad], max_quarantined=4).documents_quarantined == 4
    assert run(client, [*documents(3), *bad], max_quarantined=0).documents_quarantined == 4, "none of them is new"


def test_ingest_large_metadata_is_quarantined_with_what_to_do() -> None:
    client = WatchedClient()
    huge = Document("huge", "text", "huge.txt", metadata={"blob": "x" * 5_000_000})
    report = run(client, [huge, *documents(2)])
    assert report.documents_added == 2
    assert "metadata takes 5,0" in report.quarantined[0].reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delete": "some"}, "delete is 'some'; legal are guarded, all, none"),
        ({"on_change": "ask"}, "on_change is 'ask'; legal are rebuild, refuse"),
        ({"wait": -1.0}, r"wait is -1\.0"),
        ({"max_quarantined": -1}, "max_quarantined is -1"),
    ],
)
def test_ingest_option_that_is_not_legal_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(WatchedClient(), documents(1), **options)


@pytest.mark.parametrize("numbers", [{"share": 1.5}, {"count": -1}, {"free": -1}])
def test_deletion_guard_with_impossible_numbers_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the deletion guard is"):
        DeletionGuard(**numbers)


def test_plan_counts_only_what_would_be_embedded() -> None:
    client, encoder = WatchedClient(), FakeEncoder()
    paragraphs = [f"Paragraph {number} has some words of its own" for number in range(20)]
    run(client, [Document("long", "\n\n".join(paragraphs), "long.txt"), *documents(1)])
    paragraphs[10] = "Another paragraph with some words of its own"
    found = [
        Document("long", "\n\n".join(paragraphs), "long.txt"),
        Document("moved", documents(1)[0].text, "moved.txt"),
        Document("new", "A new document of one chunk", "new.txt"),
    ]
    planned = plan(found, client, "notes", encoder, chunking=SMALL)
    assert encoder.texts == []
    report = run(client, found, encoder)
    assert (planned.chunks_to_embed, planned.tokens_to_embed) == (report.chunks_embedded, report.tokens)
    assert report.chunks_embedded == 2


def test_ingest_waits_for_a_folder_that_another_client_holds(tmp_path: Path) -> None:
    held = open_store(tmp_path / "store")
    with pytest.raises(StoreLockedError):
        ingest(documents(1), tmp_path / "store", "notes", FakeEncoder())
    release = threading.Timer(0.5, held.close)
    release.start()
    assert ingest(documents(1), tmp_path / "store", "notes", FakeEncoder(), wait=30.0).documents_added == 1
    release.join()


def test_ingest_renamed_document_that_fails_keeps_its_old_form_run_after_run() -> None:
    client = WatchedClient()
    text = documents(1)[0].text
    run(client, [Document("old", text, "old.txt"), *documents(8)[1:]])
    renamed = [Document("new", text, "new.txt", metadata={"blob": "x" * 5_000_000}), *documents(8)[1:]]
    for _ in range(3):
        report = run(client, renamed)
        assert (report.documents_deleted, report.documents_quarantined) == (0, 1)
        assert "old" in search(client, text, 5)
    writes = len(client.writes)
    run(client, renamed)
    assert client.writes[writes:] == []
    run(client, [Document("new", text, "new.txt"), *documents(8)[1:]])
    assert "old" not in search(client, text, 9)
    assert "new" in search(client, text, 9)


def test_ingest_equal_texts_do_not_switch_the_guard_off() -> None:
    client = WatchedClient()
    same = [Document(f"d{number}", "confidential", f"d{number}.txt") for number in range(50)]
    run(client, same)
    with pytest.raises(DeletionGuardError, match="48 of 50 documents"):
        run(client, same[:1])
