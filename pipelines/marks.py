"""Who says what is being written: one process in the run's record, or several, each in a mark of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pipelines.manifest import now
from pipelines.run_records import RunRecord

if TYPE_CHECKING:
    from pipelines.ledger import Ledger


class Marks(Protocol):
    """Names documents before they are written, so that whoever comes after a kill looks at exactly these."""

    @property
    def run(self) -> int:
        """Number of the run, which its ledger entries carry."""

    def open(self) -> None:
        """Say that something will be written, unless that was said."""

    def mark(self, in_flight: tuple[str, ...]) -> None:
        """Say what is being written from now on."""


class RunMarks:
    """The record of a run; the first mark opens it.

    Args:
        ledger: Of the collection that is written.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        before = ledger.run()
        self.left_over = before.in_flight
        """Documents that the last run had in hand when it ended, if it did not come to its end."""
        self._leaves = before.shared
        self._record = RunRecord(before.generation + 1, before.in_flight, now())
        self._is_open = False

    @property
    def run(self) -> int:
        """Number of the run."""
        return self._record.generation

    def open(self) -> None:
        """Say that something will be written, unless that was said."""
        if not self._is_open:
            self.mark(())

    def mark(self, in_flight: tuple[str, ...]) -> None:
        """Say what is being written from now on."""
        self._record = replace(self._record, in_flight=in_flight)
        self._ledger.put_run(self._record)
        self._is_open = True

    def recovered(self) -> None:
        """Say that nothing is left over."""
        if self.left_over or self._leaves:
            self.mark(())
        if self._leaves:
            self._ledger.drop_marks()
            self._leaves = False

    def share(self) -> None:
        """Say that other processes write from now on, and mark by themselves."""
        if not self._record.shared:
            self._record = replace(self._record, shared=True)
            self.mark(())

    def close(self, tokens: int, seconds: float) -> None:
        """Close the record, if anything was written at all.

        Args:
            tokens: That were encoded.
            seconds: How long it took.
        """
        if not self._is_open:
            return
        shared = self._record.shared
        self._record = replace(
            self._record,
            in_flight=(),
            finished_at=now(),
            tokens=tokens,
            encode_seconds=round(seconds, 3),
            shared=False,
        )
        self._ledger.put_run(self._record)
        if shared:
            self._ledger.drop_marks()
