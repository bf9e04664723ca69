"""Calls to a server that did not answer, made again after a pause.

An answer that got lost does not say whether the call was applied, so a call that is made again may be applied twice.
For every call of ours that is the same as once: points and ledger entries have ids made from what they are, and are
written whole; deletions name ids; payloads are replaced, never merged; an alias is pointed at a collection, never
moved; a collection or an index that is there already is what was asked for; and a conditional write is followed by a
read that tells who won.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from pipelines.errors import StoreUnavailableError
from pipelines.telemetry import retried

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a server is waited for.

    Raises:
        ValueError: a number below 0.
    """

    retries: int = 12
    """Most repetitions of one call."""
    seconds: float = 120.0
    """No attempt begins later than this after the first began."""
    first_pause: float = 0.5
    """Seconds before the first repetition, at most; doubled before each further one."""
    longest_pause: float = 20.0
    """Seconds before any repetition, at most, unless the server asks for more."""

    def __post_init__(self) -> None:
        for name in ("retries", "seconds", "first_pause", "longest_pause"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more")

    def for_opening(self) -> RetryPolicy:
        """Return a shorter one: nothing is lost yet, and an address nobody answers at is more often wrong than busy."""
        return replace(self, retries=min(self.retries, 4), seconds=min(self.seconds, 10.0))


class Retrying:
    """Makes calls, and makes them again as a policy allows.

    Args:
        policy: How often and how long.
        sleep: Pauses for some seconds.
        clock: Tells seconds from any beginning.
        chance: Draws from 0..1.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self._sleep = sleep
        self._clock = clock
        self._chance = chance

    def call(self, operation: Callable[[], T], before: Callable[[], None] | None = None) -> T:
        """Return what the operation returns, as soon as it does.

        Args:
            operation: May be applied more than once.
            before: Called before every attempt; what it raises ends the call.

        Raises:
            StoreUnavailableError: the last one, when attempts or time are used up, or the server asks for more time.
        """
        started = self._clock()
        repeated = 0
        while True:
            if before is not None:
                before()
            try:
                return operation()
            except StoreUnavailableError as error:
                left = self.policy.seconds - (self._clock() - started)
                asked = error.retry_after or 0.0
                if repeated >= self.policy.retries or left <= 0 or asked > left:
                    raise
                pause = min(asked + self._pause(repeated), left)
                tried = (repeated + 2, self.policy.retries + 1)
                retried()
                _log.warning("server did not answer (%s), attempt %d of %d, waiting %.1f s", error.said, *tried, pause)
            self._sleep(pause)
            repeated += 1

    def for_opening(self) -> Retrying:
        """Return the same with the policy of an opening."""
        return Retrying(self.policy.for_opening(), sleep=self._sleep, clock=self._clock, chance=self._chance)

    def _pause(self, repeated: int) -> float:
        """Draw from the whole span, so that clients who failed together do not come back together."""
        span = min(self.policy.longest_pause, self.policy.first_pause * 2.0 ** min(repeated, 30))
        return self._chance() * span
