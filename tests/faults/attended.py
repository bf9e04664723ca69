"""A store in a folder that doomed processes work on, a reader who looks at it, and the oracle beside them."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

from pipelines import CollectionNotFoundError, StoreNotFoundError, open_collection
from pipelines.ledger import Ledger
from pipelines.physical import aliases, generations
from pipelines.store import open_store
from tests.faults.clean import described, expectation, is_found
from tests.faults.doomed import Order
from tests.faults.histories import PIPELINES, Corpus, Forms, Oracle, encoder, physical_of
from tests.faults.workshop import Workshop

PIPELINE_OF = {physical_of(number): number for number in range(len(PIPELINES))}


class Attended:
    """Has orders carried out, or cut short, and lets a reader search after each.

    Attributes:
        folder: The store.
        oracle: Knows what may be searchable.
        kills: Processes that were killed.
        writing: Those that were killed after they had written, and before they came to their end.
        rebuilding: Those that were killed while they built a new generation.
    """

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self.folder = folder
        self.oracle = Oracle()
        self.kills = self.writing = self.rebuilding = 0
        self._workshop = workshop

    def order(self, corpus: Corpus, pipeline: int = 0, **details: Any) -> Order:
        return Order(str(self.folder), dict(corpus), pipeline, **details)

    def carry_out(self, order: Order, *, kill_after: tuple[str, float] | None = None) -> bool:
        """Carry out an order, or kill the process so long after it said a word; True when it came to its end."""
        if kill_after is None:
            status = self._workshop.done(order)
            assert status in (0, -9), f"{order.action} ended with {status}"
            self._follow(order, status == 0)
            return status == 0
        before = self._state()
        done = not self._workshop.killed_after(order, *kill_after)
        if not done:
            self.kills += 1
            self.writing += self._state() != before
            self.rebuilding += self.oracle.live not in (None, order.pipeline)
        self._follow(order, done)
        return done

    def equals_a_clean_build(self, corpus: Corpus, pipeline: int) -> bool:
        client = QdrantClient(path=str(self.folder))
        try:
            return described(client, pipeline) == expectation(client, pipeline, corpus, self.oracle)
        finally:
            client.close()

    def _follow(self, order: Order, done: bool) -> None:
        seen = self._live()
        if order.action == "rollback":
            assert seen in self.oracle.forms
            self.oracle.live = seen
        if order.action == "prune":
            self.oracle.pruned(wholly=done)
        if order.action != "ingest":
            assert seen == self.oracle.live
            self._read(seen, order.pipeline, {})
            return
        outcome = self.oracle.outcome(order.pipeline, order.corpus, "all")
        before = self.oracle.live
        if done or before not in (None, seen):
            self.oracle.came_to_its_end(order.pipeline, outcome)
        else:
            self.oracle.was_cut_short(order.pipeline, outcome)
        self.oracle.live = seen
        assert before is None or seen is not None, "the name stood for nothing"
        self._read(seen, order.pipeline, outcome)

    def _read(self, seen: int | None, pipeline: int, outcome: dict[str, Forms]) -> None:
        """Search, as people do, and find every document whole."""
        if seen is None:
            return
        there: dict[str, Counter[str]] = defaultdict(Counter)
        with open_collection(self.folder, "notes", encoder=encoder(seen)) as collection:
            for hit in collection.search("a paragraph", limit=10_000):
                there[hit.document_id][hit.text] += 1
        for one, forms in self.oracle.searchable(seen, pipeline, outcome):
            assert is_found(there[one], seen, one, forms), f"{one!r} is found in none of these forms: {forms}"

    def _live(self) -> int | None:
        try:
            with open_store(self.folder, create=False) as store:
                physical = aliases(store).get("notes")
        except (StoreNotFoundError, CollectionNotFoundError):
            return None
        return None if physical is None else PIPELINE_OF[physical]

    def _state(self) -> list[object]:
        """What every run that writes changes, leases aside."""
        try:
            with open_store(self.folder, create=False) as store:
                ledgers = [Ledger(store, physical) for physical in generations(store, "notes")]
                return [aliases(store), *(ledger.run() if ledger.exists() else None for ledger in ledgers)]
        except StoreNotFoundError:
            return []
