"""A run in steps, as a flow takes it: groups, retries of a group, steps that were left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from qdrant_client import QdrantClient

from pipelines import IngestOptions, StoreUnavailableError, ingest, open_indexing
from pipelines.control import Control
from pipelines.lease import holder
from pipelines.shards import ShardCutter
from pipelines.store import open_store
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder, FakeEncoding
from tests.pipelines.stores import Crash, WatchedClient, contents


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Cut shards so small that this corpus has several: a document makes about 8 chunks, 10 by its length."""
    monkeypatch.setattr("pipelines.ingest_run.ShardCutter", partial(ShardCutter, least=40, most=100))
    monkeypatch.setattr("pipelines.writer._SMALLEST_GROUP", 16)
    monkeypatch.setattr("pipelines.writer._LARGEST_GROUP", 16)


def clean(number: int, encoder: FakeEncoder | None = None) -> dict[str, object]:
    client = QdrantClient(":memory:")
    ingest(edition(number), client, "notes", encoder or FakeEncoder(), chunking=CHUNKING)
    return contents(client, "notes")


def opened(client: QdrantClient, number: int, encoder: FakeEncoder | None = None):
    options = IngestOptions(delete="all")
    return open_indexing(edition(number), client, "notes", encoder or FakeEncoder(), chunking=CHUNKING, options=options)


def test_indexing_in_groups_leaves_what_ingest_leaves_and_each_group_is_searchable_when_it_is_through():
    client = QdrantClient(":memory:")
    with opened(client, 0) as run:
        planned = run.plan()
        groups = run.groups(4)
        assert len(groups) == 4
        done = 0
        for group in groups:
            report = run.run_group(group)
            done += group.documents
            assert report.documents == group.documents
            assert report.chunks > 0
            assert len(contents(client, "notes")["ledger"]) == done
        assert done == len(planned.added)
        run.verify()
        report = run.promote()
    assert report.documents_added == 48
    assert contents(client, "notes") == clean(0)


def test_indexing_moves_deletes_and_rebuilds_as_ingest_does():
    client = QdrantClient(":memory:")
    ingest(edition(0), client, "notes", FakeEncoder(), chunking=CHUNKING)
    other = FakeEncoder(FakeConfig(prefix_bias=0.5))
    for number, encoder in ((1, FakeEncoder()), (2, other)):
        with opened(client, number, encoder) as run:
            run.plan()
            for group in run.groups():
                run.run_group(group)
            run.verify()
            report = run.promote()
        assert report.rebuilt == (number == 2)
        assert contents(client, "notes") == clean(number, encoder)


def test_indexing_with_nothing_to_do_has_no_groups_and_takes_no_lease():
    client = WatchedClient()
    ingest(edition(0), client, "notes", FakeEncoder(), chunking=CHUNKING)
    writes = len(client.writes)
    with opened(client, 0) as run:
        assert run.plan().changes_nothing
        assert run.groups() == []
        run.verify()
        assert run.promote().documents_unchanged == 48
    assert client.writes[writes:] == []


class Failing(FakeEncoder):
    """Loses the store, as it were, at one call of the encoder."""

    fail_at = -1
    calls = 0

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        Failing.calls += 1
        if Failing.calls == Failing.fail_at:
            raise StoreUnavailableError("gone for a moment")
        return super().encode_counted(texts, role)


@pytest.mark.parametrize("fail_at", range(4, 11))
def test_group_that_failed_is_run_again_and_embeds_nothing_that_was_committed_twice(fail_at):
    client = QdrantClient(":memory:")
    ingest(edition(1), client, "notes", FakeEncoder(), chunking=CHUNKING)
    Failing.calls, Failing.fail_at = 0, fail_at
    encoder = Failing()
    failures = 0
    with opened(client, 0, encoder) as run:
        run.plan()
        for group in run.groups(3):
            try:
                run.run_group(group)
            except StoreUnavailableError:
                failures += 1
                run.run_group(group)
        run.verify()
        report = run.promote()
    assert failures == 1
    assert (report.documents_added, report.documents_changed, report.documents_deleted) == (12, 12, 12)
    assert contents(client, "notes") == clean(0)


def test_group_that_was_left_out_is_missed():
    client = QdrantClient(":memory:")
    with opened(client, 0) as run:
        run.plan()
        run.run_group(run.groups(3)[0])
        with pytest.raises(RuntimeError, match="run all groups"):
            run.verify()
    ingest(edition(0), client, "notes", FakeEncoder(), chunking=CHUNKING)
    assert contents(client, "notes") == clean(0)


def test_rebuild_that_was_not_verified_is_not_promoted():
    client = QdrantClient(":memory:")
    ingest(edition(0), client, "notes", FakeEncoder(), chunking=CHUNKING)
    before = contents(client, "notes")
    with opened(client, 0, FakeEncoder(FakeConfig(prefix_bias=0.5))) as run:
        run.plan()
        for group in run.groups(2):
            run.run_group(group)
        with pytest.raises(RuntimeError, match="verify"):
            run.promote()
    assert contents(client, "notes") == before


def test_indexing_that_is_left_early_gives_the_lease_back():
    client = QdrantClient(":memory:")

    def left_early() -> None:
        with opened(client, 0) as run:
            run.plan()
            with open_store(client) as store:
                assert holder(store, "notes") is not None
            raise Crash

    with pytest.raises(Crash):
        left_early()
    with open_store(client) as store:
        assert Control(store, "notes").exists()
        assert holder(store, "notes") is None


def test_indexing_steps_out_of_order_say_what_comes_first():
    with opened(QdrantClient(":memory:"), 0) as run:
        with pytest.raises(RuntimeError, match=r"call plan\(\) first"):
            run.promote()
