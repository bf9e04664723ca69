"""An embedded store is fast because it waits for the disk per group; the order of what reaches the disk must hold."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from pipelines import Document, ingest
from pipelines.ledger import Ledger, LedgerEntry
from pipelines.store import open_store
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import contents


def rows_on_disk(collection: Path, copy: Path) -> int:
    """Count the points that a loss of power would leave: those in the database itself, not in its log."""
    shutil.copy(collection / "storage.sqlite", copy)
    with sqlite3.connect(copy) as connection:
        (count,) = connection.execute("SELECT count(*) FROM points").fetchone()
    connection.close()
    return int(count)


def test_ingest_into_a_folder_settles_points_before_their_ledger_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    put, seen = Ledger.put, []

    def watched(ledger: Ledger, entries: Sequence[LedgerEntry], run: int) -> None:
        physical = store / "collection" / ledger.name.removesuffix("--ledger")
        seen.append((rows_on_disk(physical, tmp_path / "copy"), sum(len(entry.point_ids) for entry in entries)))
        put(ledger, entries, run)

    monkeypatch.setattr(Ledger, "put", watched)
    found = [Document(f"d{number}", f"text {number}", "a test") for number in range(50)]
    ingest(found, store, "notes", FakeEncoder())
    assert seen
    on_disk = 0
    for rows, committed in seen:
        on_disk += committed
        assert rows >= on_disk > 0


def test_store_written_in_groups_is_read_by_a_plain_client(tmp_path: Path) -> None:
    found = [Document(f"d{number}", f"text {number}", "a test") for number in range(5)]
    ingest(found, tmp_path, "notes", FakeEncoder())
    plain = QdrantClient(path=str(tmp_path))
    assert len(contents(plain, "notes")["points"]) == 5
    plain.close()


def test_store_passed_in_as_a_client_keeps_its_own_ways(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    with open_store(client) as store:
        store.create("mine", None, None)
    with sqlite3.connect(tmp_path / "collection" / "mine" / "storage.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    client.close()
