"""What a run is allowed to do, and what it does when it meets something unexpected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from pipelines.storage import StorageConfig

Delete: TypeAlias = Literal["guarded", "all", "none"]
"""What happens to documents that left the source: deleted unless they are many, deleted, or kept."""

OnChange: TypeAlias = Literal["rebuild", "refuse"]
"""What happens when the encoder or the chunking is another one than the collection's."""


@dataclass(frozen=True, slots=True)
class DeletionGuard:
    """How many documents one run may delete unasked: never all of them.

    Raises:
        ValueError: a number is out of range.
    """

    free: int = 5
    """Up to this many need no asking while others stay, so that small collections stay easy to use."""
    share: float = 0.20
    """Above `free`, the largest share of the known documents."""
    count: int = 100
    """The largest number, whatever the share."""

    def __post_init__(self) -> None:
        if self.free < 0 or self.count < 0 or not 0.0 <= self.share <= 1.0:
            raise ValueError(
                f"the deletion guard is free={self.free}, share={self.share}, count={self.count}; "
                "free and count are at least 0, share is from 0 to 1"
            )

    def allows(self, doomed: int, known: int) -> bool:
        """Tell whether `doomed` of `known` documents may go without asking."""
        if doomed >= known:
            return doomed == 0
        return doomed <= min(self.free, self.count) or (doomed <= self.count and doomed <= self.share * known)


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How a run behaves; none of it changes a point.

    Raises:
        ValueError: a value is not legal.
    """

    delete: Delete = "guarded"
    """What happens to documents that left the source."""
    guard: DeletionGuard = DeletionGuard()
    """What "guarded" lets pass."""
    on_change: OnChange = "rebuild"
    """Another encoder or chunking builds a new collection behind the name, or is refused."""
    wait: float = 0.0
    """Seconds to wait for another run that is writing."""
    retry_quarantined: bool = False
    """Try documents again that failed before, though neither they nor the pipeline changed."""
    max_quarantined: int | None = None
    """End the run when more documents than this fail in it; None never does."""
    adopt: bool = False
    """Take over a collection that was not made here: an empty one, or an alias."""
    storage: StorageConfig | None = None
    """How the server keeps the vectors; None leaves it as it is."""

    def __post_init__(self) -> None:
        for name, given, legal in (
            ("delete", self.delete, get_args(Delete)),
            ("on_change", self.on_change, get_args(OnChange)),
        ):
            if given not in legal:
                raise ValueError(f"{name} is {given!r}; legal are {', '.join(legal)}")
        if self.wait < 0 or (self.max_quarantined is not None and self.max_quarantined < 0):
            raise ValueError(f"wait is {self.wait} and max_quarantined is {self.max_quarantined}; both are at least 0")
