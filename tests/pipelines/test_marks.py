"""What several processes of a run note in the ledger, and what the next run makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient

from pipelines import ingest
from pipelines.collection import get_collection
from pipelines.ledger import Ledger
from pipelines.marks import RunMarks
from pipelines.run_records import Mark, RunRecord
from pipelines.store import open_store
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.fake_encoder import FakeEncoder


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    client = QdrantClient(":memory:")
    ingest(edition(0)[:3], client, "notes", FakeEncoder(), chunking=CHUNKING)
    with open_store(client) as store:
        yield get_collection(store, "notes").ledger


def test_documents_in_flight_are_those_of_the_record_and_of_all_marks_of_its_run(ledger):
    ledger.put_run(RunRecord(generation=7, in_flight=("d1",), shared=True))
    ledger.put_mark(Mark("7/0", 7, ("d2", "d1")))
    ledger.put_mark(Mark("7/1", 7, ("d3",)))
    ledger.put_mark(Mark("6/0", 6, ("of an earlier run",)))
    assert sorted(ledger.run().in_flight) == ["d1", "d2", "d3"]
    ledger.put_run(RunRecord(generation=8))
    assert ledger.run().in_flight == ()


def test_marks_are_no_documents_and_a_mark_reads_back_as_it_was_written(ledger):
    entries = list(ledger.scan())
    mark = Mark("7/0", 7, ("d2",), begun=3, alone="d2", alone_begun=1, probed=2)
    ledger.put_mark(mark)
    assert ledger.mark("7/0") == mark
    assert ledger.mark("7/1") is None
    assert list(ledger.scan()) == entries
    ledger.drop_marks(["7/0"])
    assert ledger.mark("7/0") is None


def test_mark_of_an_earlier_run_that_arrives_late_changes_nothing(ledger):
    later = Mark("portion", 8, ("d2",))
    ledger.put_mark(later)
    ledger.put_mark(Mark("portion", 7, ("d9",)))
    assert ledger.mark("portion") == later


def test_run_that_shares_says_so_at_once_and_leaves_no_mark_when_it_closes(ledger):
    marks = RunMarks(ledger)
    marks.share()
    assert ledger.run().shared
    ledger.put_mark(Mark("2/0", marks.run, ("d2",)))
    marks.close(10, 1.0)
    assert ledger.run().in_flight == ()
    assert not ledger.run().shared
    assert ledger.mark("2/0") is None


def test_marks_that_a_dead_run_left_go_when_they_are_undone(ledger):
    RunMarks(ledger).share()
    ledger.put_mark(Mark("2/0", ledger.run().generation, ("d2",)))
    marks = RunMarks(ledger)
    assert marks.left_over == ("d2",)
    marks.recovered()
    assert ledger.mark("2/0") is None
    assert RunMarks(ledger).left_over == ()
