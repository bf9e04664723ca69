"""Clients that watch or fail, and what a store holds, in a form that compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdrant_client import QdrantClient

from pipelines.ledger import Ledger
from pipelines.physical import resolve
from pipelines.store import open_store

READS = frozenset(
    {"close", "count", "collection_exists", "get_aliases", "get_collection", "get_collection_aliases"}
    | {"get_collections", "info", "init_options", "query_batch_points", "query_points", "retrieve", "scroll"}
    | {"query_points_groups", "facet"}
)


class Crash(BaseException):
    """Stands for the end of the process."""


class WatchedClient(QdrantClient):
    """Notes every call that is not a known read, and can end the process before or after one of them.

    Attributes:
        writes: (method, collection) of each such call so far.
        crash_at: Number of the write, from 0, at which the process ends; None lets another one begin.
        applied: The fatal write reaches the store.
    """

    def __init__(self, location: str = ":memory:") -> None:
        self.writes: list[tuple[str, str]] = []
        self.crash_at: int | None = None
        self.applied = False
        super().__init__(location) if location == ":memory:" else super().__init__(path=location)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value) or name in READS:
            return value
        return self._watched(name, value)

    def _watched(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            collection = args[0] if args and isinstance(args[0], str) else str(kwargs.get("collection_name", ""))
            if self.crash_at is not None and len(self.writes) > self.crash_at:
                raise Crash  # a process that has ended writes nothing more
            fatal = self.crash_at is not None and len(self.writes) == self.crash_at
            self.writes.append((name, collection))
            if fatal and not self.applied:
                raise Crash
            result = operation(*args, **kwargs)
            if fatal:
                raise Crash
            return result

        return call


def contents(client: QdrantClient, name: str) -> dict[str, Any]:
    """Everything a clean build would leave, without times and run numbers."""
    with open_store(client) as store:
        physical = resolve(store, name)
        assert physical is not None
        points, _ = client.scroll(physical, limit=100_000, with_vectors=True, with_payload=True)
        ledger = Ledger(store, physical)
        return {
            "physical": physical,
            "points": {point.id: point.payload for point in points},
            "vectors": {point.id: [round(number, 5) for number in point.vector] for point in points},
            "ledger": {
                entry.document_id: (
                    entry.source,
                    entry.content_hash,
                    entry.point_ids,
                    entry.settled,
                    entry.quarantine,
                    entry.truncated_tokens,
                )
                for entry in ledger.scan(brief=False)
            },
            "in_flight": ledger.run().in_flight,
        }
