"""What goes wrong between a client and a server, and at which call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal[
    "drop_before",  # the connection breaks, nothing was applied
    "drop_after",  # it was applied, the answer is lost
    "twice",  # the request is delivered, and applied, two times
    "delay",  # the answer takes its time
    "busy",  # 429, RESOURCE_EXHAUSTED
    "busy_after",  # the same with Retry-After
    "unavailable",  # 503, UNAVAILABLE
    "deadline",  # 408, DEADLINE_EXCEEDED, and nothing was applied
    "deadline_after",  # the same, and it was applied
    "internal",  # 500, INTERNAL
    "bad_request",  # 400, INVALID_ARGUMENT
    "denied",  # 401, UNAUTHENTICATED
    "not_found",  # 404, NOT_FOUND
]
Among = Literal["calls", "reads", "writes"]

KINDS: tuple[Kind, ...] = get_args(Kind)
PERMANENT: tuple[Kind, ...] = ("bad_request", "denied", "not_found")
HARMLESS: tuple[Kind, ...] = ("twice", "delay")
TRANSIENT: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in (*PERMANENT, *HARMLESS))


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it reached the server.

    Attributes:
        number: From 0, over all calls.
        method: As the client names it.
        collection: "" where the call names none.
        write: It changes what the server holds.
        size: Bytes of the request.
        arguments: What it was given.
    """

    number: int
    method: str
    collection: str
    write: bool
    size: int
    arguments: dict[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: What.
        seconds: Length of a delay, or what Retry-After says.
    """

    kind: Kind
    seconds: float = 0.0


@dataclass(slots=True)
class _Rule:
    fault: Fault
    among: Among
    method: str | None
    due: Callable[[int], bool]
    seen: int = 0

    def concerns(self, call: Call) -> bool:
        if self.method is not None and call.method != self.method:
            return False
        return self.among == "calls" or call.write == (self.among == "writes")


class FaultPlan:
    """Says of every call whether it goes wrong; the first rule that speaks decides.

    Rules number the calls that they concern from 0, repetitions included.
    """

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def at(
        self,
        number: int,
        kind: Kind,
        *,
        times: int = 1,
        among: Among = "writes",
        method: str | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Let some calls in a row go wrong."""
        self._add(kind, among, method, seconds, lambda seen: number <= seen < number + times)

    def every(self, kind: Kind, *, among: Among = "writes", method: str | None = None, seconds: float = 0.0) -> None:
        """Let every call go wrong at its first attempt: it alternates, and the second attempt comes next."""
        self._add(kind, among, method, seconds, lambda seen: seen % 2 == 0)

    def always(self, kind: Kind, *, among: Among = "calls", method: str | None = None, seconds: float = 0.0) -> None:
        """Let all calls go wrong until `clear`."""
        self._add(kind, among, method, seconds, lambda seen: True)

    def clear(self) -> None:
        """Let nothing go wrong from now on."""
        with self._lock:
            self._rules.clear()

    def take(self, call: Call) -> Fault | None:
        """Return what goes wrong with this call."""
        found: Fault | None = None
        with self._lock:
            for rule in self._rules:
                if not rule.concerns(call):
                    continue
                if found is None and rule.due(rule.seen):
                    found = rule.fault
                rule.seen += 1
        return found

    def _add(self, kind: Kind, among: Among, method: str | None, seconds: float, due: Callable[[int], bool]) -> None:
        assert kind in KINDS, kind
        with self._lock:
            self._rules.append(_Rule(Fault(kind, seconds), among, method, due))
