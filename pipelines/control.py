"""What is known of a name beside its points: who writes, which generations there were, which one is being built.

It is kept in a collection without vectors, `NAME--control`, in the same Qdrant. The alias says which generation is
live; the record here is written before the alias moves, and read together with it, so a run that ends between the
two leaves nothing to guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from qdrant_client import models

from pipelines.physical import collections, control_name
from pipelines.points import control_id

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.store import Store

_INDEXED = {"token": models.PayloadSchemaType.KEYWORD, "beat": models.PayloadSchemaType.INTEGER}
"""What conditional updates look at; a server in strict mode filters by nothing else."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A generation that was live before."""

    physical: str
    at: str
    """When another one took its place; UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """The generations of a name.

    Attributes:
        retired: Those that were live, the last one first.
        building: The one that is being built beside the live one, if any.
        replaces: What the alias pointed to when `building` was about to take its place; "" before that.
        swapped_at: When that was, or when it was begun; UTC, ISO 8601.
    """

    retired: tuple[Retired, ...] = ()
    building: str | None = None
    replaces: str = ""
    swapped_at: str = ""

    def seen_from(self, live: str | None) -> ControlRecord:
        """Return the record as it stands when the alias points to `live`: a swap that was announced may be through."""
        if self.building is None or self.building != live:
            return self
        return self.swapped_to(live)

    def swapped_to(self, live: str) -> ControlRecord:
        """Return the record after the alias moved to `live`."""
        others = tuple(old for old in self.retired if old.physical not in (live, self.replaces))
        gone = (Retired(self.replaces, self.swapped_at),) if self.replaces not in ("", live) else ()
        return ControlRecord(retired=(*gone, *others))

    def without(self, physical: str) -> ControlRecord:
        """Return the record after a generation was deleted."""
        return replace(self, retired=tuple(old for old in self.retired if old.physical != physical))


class Control:
    """Reads and writes the control collection of one name."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = control_name(name)
        self._store = store

    def exists(self) -> bool:
        """Tell whether there is one; names that older versions filled have none."""
        return self.name in collections(self._store)

    def create(self) -> None:
        """Make it, unless it exists."""
        if self.exists():
            return
        self._store.create(self.name, None, None)
        if not self._store.embedded:
            for field_name, schema in _INDEXED.items():
                self._store.call(
                    self._store.client.create_payload_index,
                    self.name,
                    field_name=field_name,
                    field_schema=schema,
                    wait=True,
                )

    def record(self, live: str | None) -> ControlRecord:
        """Return the generations of the name.

        Args:
            live: What the alias points to.
        """
        payload = self.get("generations") if self.exists() else None
        if payload is None:
            return ControlRecord()
        retired = cast("Sequence[Mapping[str, str]]", payload["retired"])
        building = payload["building"]
        return ControlRecord(
            retired=tuple(Retired(str(old["physical"]), str(old["at"])) for old in retired),
            building=None if building is None else str(building),
            replaces=str(payload["replaces"]),
            swapped_at=str(payload["swapped_at"]),
        ).seen_from(live)

    def put_record(self, record: ControlRecord) -> None:
        """Write the generations of the name."""
        retired: list[JSON] = [{"physical": old.physical, "at": old.at} for old in record.retired]
        self.put(
            "generations",
            {
                "retired": retired,
                "building": record.building,
                "replaces": record.replaces,
                "swapped_at": record.swapped_at,
            },
        )

    def get(self, kind: str) -> Mapping[str, JSON] | None:
        """Return one record as it is stored, or None."""
        records = self._store.call(
            self._store.client.retrieve,
            self.name,
            ids=[control_id(kind)],
            consistency=models.ReadConsistencyType.QUORUM,  # of a cluster's replicas, one may be behind
        )
        return cast("Mapping[str, JSON]", records[0].payload or {}) if records else None

    def put(self, kind: str, payload: Mapping[str, JSON], *, only: Mapping[str, str | int] | None = None) -> None:
        """Write one record.

        Args:
            kind: Which.
            payload: All of it.
            only: Overwrite a record only if it holds these values; one that is not there is written in any case.
        """
        point = models.PointStruct(id=control_id(kind), vector={}, payload={"kind": kind, **payload})
        must: list[models.Condition] = [
            models.FieldCondition(key=key, match=models.MatchValue(value=value)) for key, value in (only or {}).items()
        ]
        self._store.call(
            self._store.client.upsert,
            self.name,
            points=[point],
            wait=True,
            ordering=models.WriteOrdering.STRONG,
            update_filter=models.Filter(must=must) if must else None,
        )
        self._store.settle(self.name)
