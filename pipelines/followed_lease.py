"""The write lease, as the other processes of the run that holds it see it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipelines.control import Control
from pipelines.errors import LeaseLostError
from pipelines.lease_holder import BEATS, LEASE_KIND, read_holder

if TYPE_CHECKING:
    from pipelines.lease_holder import Holder, Ticket
    from pipelines.store import Store


class FollowedLease:
    """A lease that another process of the same run holds and renews; this one only looks.

    Whoever saw the beat rise knows that it was renewed after the look before, and that nobody may take it within its
    seconds from then on.

    Args:
        store: Where the name is.
        ticket: Of the lease.
    """

    def __init__(self, store: Store, ticket: Ticket) -> None:
        self._control = Control(store, ticket.name)
        self._ticket = ticket
        self._beat = -1
        self._confirmed = self._looked = time.monotonic()

    def check(self) -> None:
        """Make sure that the lease is held, looking at it a few times while it lasts.

        Whoever did not look for longer than that, because a text took long, waits for the next beat.

        Raises:
            LeaseLostError: another run has it, or its holder is silent for so long that another run may take it.
            StoreUnavailableError: the store cannot say.
        """
        started = time.monotonic()
        if started - self._looked < self._ticket.seconds / BEATS:
            return
        found = self._look()
        while self._looked - self._confirmed > self._ticket.seconds:
            if self._looked - started > self._ticket.seconds:
                raise LeaseLostError(self._ticket.name, f"nobody, for {found} is silent")
            time.sleep(self._ticket.seconds / (4 * BEATS))
            found = self._look()

    def _look(self) -> Holder:
        looking = time.monotonic()
        found = read_holder(self._control.get(LEASE_KIND))
        if found.token != self._ticket.token:
            raise LeaseLostError(self._ticket.name, str(found) if found.token else "nobody")
        if found.beat != self._beat:
            self._beat, self._confirmed = found.beat, self._looked
        self._looked = looking
        return found
