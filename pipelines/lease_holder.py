"""Who holds a write lease, as its record in the store says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pipelines.errors import JSON

LEASE_KIND = "lease"
"""Of the record of a lease among those of its name."""
BEATS = 6
"""Renewals in the time of a lease: some may be lost before anyone doubts the holder."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, and the count that shows it is alive.

    Attributes:
        token: Names one holding; "" when nobody does.
        beat: Rises with every renewal.
        seconds: How long the beat may stand still.
        machine: Names a running system and its process numbers; "" where that cannot be told.
        host: For a person.
        pid: Process.
        process: When the process began, in the system's own count, to tell it from a later one of its number.
        since: UTC, ISO 8601.
    """

    token: str = ""
    beat: int = 0
    seconds: float = 0.0
    machine: str = ""
    host: str = ""
    pid: int = 0
    process: str = ""
    since: str = ""

    def __str__(self) -> str:
        """Name the holder for a person."""
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What another process of the same run has to know to write under its lease.

    Attributes:
        name: Collection.
        token: Names the holding.
        seconds: How long its beat may stand still.
    """

    name: str
    token: str
    seconds: float


def read_holder(payload: Mapping[str, JSON] | None) -> Holder:
    """Read who holds a lease; a blank one where nobody ever did."""
    if payload is None:
        return Holder()
    return Holder(
        token=str(payload["token"]),
        beat=int(cast("float", payload["beat"])),
        seconds=float(cast("float", payload["seconds"])),
        machine=str(payload["machine"]),
        host=str(payload["host"]),
        pid=int(cast("float", payload["pid"])),
        process=str(payload["process"]),
        since=str(payload["since"]),
    )
