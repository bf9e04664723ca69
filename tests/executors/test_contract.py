"""What holds for every executor: the same collection, the same report, the same guarantees."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from pipelines import Document, IngestReport, RejectedDocument, TooManyQuarantinedError, ingest
from pipelines.store import open_store
from tests.executors.light import POISON, LightConfig, LightEncoder
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.stores import contents

TIMES = {"seconds", "physical", "source"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many portions in a small corpus."""
    monkeypatch.setattr("pipelines.executors.dealing._SMALLEST", 16)
    monkeypatch.setattr("pipelines.executors.dealing._LARGEST", 16)


def index(
    place: tuple[Any, Any], found: list[Any], encoder: LightEncoder | None = None, **options: Any
) -> IngestReport:
    executor, store = place
    options.setdefault("delete", "all")
    return ingest(found, store, "notes", encoder or LightEncoder(), chunking=CHUNKING, executor=executor, **options)


def held(store: object) -> dict[str, Any]:
    with open_store(store) as opened:  # type: ignore[arg-type]
        return contents(opened.client, "notes")


def clean(found: list[Any], encoder: LightEncoder | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a clean build in this process leaves, and what it reports."""
    client = QdrantClient(":memory:")
    report = ingest(found, client, "notes", encoder or LightEncoder(), chunking=CHUNKING)
    return contents(client, "notes"), told(report)


def told(report: IngestReport) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(report).items() if key not in TIMES}
    return plain | {"quarantined": sorted(plain["quarantined"], key=str)}


def test_executor_first_run_leaves_and_reports_what_a_clean_build_does(place):
    wanted, report = clean(edition(0))
    assert told(index(place, edition(0))) == report
    assert held(place[1]) == wanted


def test_executor_edits_moves_and_deletes_leave_and_report_what_inline_does(place, tmp_path):
    renamed = [replace(one, id=f"new-{one.id}") if one.id in ("d1", "d2") else one for one in edition(1)]
    reference = (None, tmp_path / "reference")
    for found in (edition(0), renamed):
        expected = ingest(found, reference[1], "notes", LightEncoder(), chunking=CHUNKING, delete="all")
        assert told(index(place, found)) == told(expected)
    assert held(place[1]) == held(reference[1]) == clean(renamed)[0]
    assert (expected.documents_moved, expected.documents_deleted > 0, expected.chunks_reused > 0) == (1, True, True)


def test_executor_second_run_embeds_nothing_and_writes_nothing(place):
    index(place, edition(0))
    before = held(place[1])
    report = index(place, edition(0))
    assert (report.chunks_embedded, report.points_written, report.documents_unchanged) == (0, 0, 48)
    assert held(place[1]) == before


def test_executor_quarantines_what_cannot_be_embedded_or_read_and_nothing_else(place):
    bad = Document("bad", f"A {POISON} for every model.", "bad.txt")
    broken = RejectedDocument("broken", "broken.txt", "hash", "parse", "not readable")
    found = [*edition(0)[:20], bad, broken, *edition(0)[20:]]
    wanted, report = clean(found)
    assert told(index(place, found)) == report
    assert held(place[1]) == wanted
    assert [one.document_id for one in index(place, found).quarantined] == ["bad", "broken"]


def test_executor_rebuilds_beside_the_old_generation_and_swaps(place):
    index(place, edition(0))
    other = LightEncoder(LightConfig(bias=0.5))
    assert index(place, edition(1), other).rebuilt
    assert held(place[1]) == clean(edition(1), other)[0]


@pytest.mark.slow
def test_executor_with_more_failures_than_allowed_ends_and_the_next_run_converges(place):
    bad = [Document(f"bad{number}", f"A {POISON} for every model.", "bad.txt") for number in range(4)]
    found = [*edition(0)[:30], *bad, *edition(0)[30:]]
    with pytest.raises(TooManyQuarantinedError):
        index(place, found, max_quarantined=1)
    index(place, found)
    assert held(place[1]) == clean(found)[0]


def test_executor_empty_and_long_documents_are_handled_as_inline_does(place: tuple[Any, Any], tmp_path: Path):
    long = Document("long", "\n\n".join(f"Paragraph {number} of a long text." for number in range(200)), "long.txt")
    found = [Document("empty", "", "e.txt"), long, Document("blank", " \n", "b.txt")]
    wanted, report = clean(found)
    assert told(index(place, found)) == report
    assert held(place[1]) == wanted
