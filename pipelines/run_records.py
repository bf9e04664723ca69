"""What a run notes of itself beside the ledger's entries: that it is under way, and what it has in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pipelines.errors import JSON

MARKED = "marked"
"""`status` of a mark, by which all of them are found."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The last run that wrote.

    Attributes:
        generation: Counts the runs that wrote.
        in_flight: Documents whose points, entry and payloads may disagree if the run ended here.
        started_at: UTC, ISO 8601.
        finished_at: The same; "" while the run goes on, or when it was cut short.
        tokens: Tokens it encoded.
        encode_seconds: How long that took.
        shared: Several processes write, and what each of them has in flight stands in marks.
    """

    generation: int = 0
    in_flight: tuple[str, ...] = ()
    started_at: str = ""
    finished_at: str = ""
    tokens: int = 0
    encode_seconds: float = 0.0
    shared: bool = False

    def to_payload(self) -> dict[str, JSON]:
        """Return what the store keeps of it."""
        return {"kind": "run", **asdict(self), "in_flight": list(self.in_flight)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, JSON]) -> RunRecord:
        """Read what the store keeps; records of older versions were never shared."""
        return cls(
            generation=int(cast("float", payload["generation"])),
            in_flight=tuple(cast("Sequence[str]", payload["in_flight"])),
            started_at=str(payload["started_at"]),
            finished_at=str(payload["finished_at"]),
            tokens=int(cast("float", payload["tokens"])),
            encode_seconds=float(cast("float", payload["encode_seconds"])),
            shared=bool(payload.get("shared", False)),
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """What one of several processes of a run has in hand.

    Attributes:
        key: Names the portion of the run's documents.
        generation: Number of the run.
        in_flight: Documents of the portion that may be half written.
        begun: How often the portion was begun; more than once where processes ended in it.
        alone: Document that was embedded by itself last, to see which one it is that ends processes; "" for none.
        alone_begun: How often that was begun.
        probed: How often a text that harms nobody was begun since one came through.
    """

    key: str
    generation: int
    in_flight: tuple[str, ...] = ()
    begun: int = 1
    alone: str = ""
    alone_begun: int = 0
    probed: int = 0

    def to_payload(self) -> dict[str, JSON]:
        """Return what the store keeps of it."""
        return {"kind": "mark", "status": MARKED, **asdict(self), "in_flight": list(self.in_flight)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, JSON]) -> Mark:
        """Read what the store keeps."""
        return cls(
            key=str(payload["key"]),
            generation=int(cast("float", payload["generation"])),
            in_flight=tuple(cast("Sequence[str]", payload["in_flight"])),
            begun=int(cast("float", payload["begun"])),
            alone=str(payload["alone"]),
            alone_begun=int(cast("float", payload["alone_begun"])),
            probed=int(cast("float", payload["probed"])),
        )
