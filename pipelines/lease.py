"""One writer per name: a lease in the store, taken and renewed by conditional update.

Time is never compared between machines. The holder counts up a beat; who wants the lease watches the beat with a
clock of its own, and takes over when it stood still for as long as the holder allowed. A holder on the same machine
whose process is gone is known to be dead at once. An embedded store is locked by its process, so a holder from
another one is dead as well, and there nothing needs to beat.

A request that was on its way when its writer lost the lease may still arrive. What it can do is bounded: entries of
the ledger carry the number of their run, and a lower number never overwrites a higher one; a point written or deleted
late is found by `verify`.

Source: observed expiry as in Kubernetes' leader election (client-go, tools/leaderelection).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.control import Control
from pipelines.errors import CollectionBusyError, LeaseLostError, StoreError, StoreUnavailableError
from pipelines.lease_holder import BEATS, LEASE_KIND, Holder, Ticket, read_holder
from pipelines.manifest import now
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from pipelines.store import Store

_logger = logging.getLogger(__name__)
_LOOKS = 40  # per lease, by one who waits
_PARTING = 10.0  # seconds for the store to take a lease back

_START = 19  # of the fields behind the state in /proc/PID/stat, which is the 22nd in all

_held: set[str] = set()
"""Tokens of the leases that this process holds: what names this process and is not here is left over."""


class Lease:
    """The right to write to one name, once it is taken."""

    def __init__(self, store: Store, name: str, seconds: float) -> None:
        self.store = store.guarded(self.check)
        """The store for whoever holds the lease: every call to it first makes sure that it is still held."""
        self._name = name
        self._control = Control(store, name)
        self._alone = store.embedded  # no other process has the store open
        self._mine = _myself(seconds)
        self._confirmed = 0.0
        self._other: Holder | None = None
        self._renewing = threading.Lock()
        self._ended = threading.Event()

    @property
    def ticket(self) -> Ticket:
        """What other processes of this run follow the lease by."""
        return Ticket(self._name, self._mine.token, self._mine.seconds)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Let other threads of this process see that the holding is no leftover."""
        _held.add(self._mine.token)
        try:
            yield
        finally:
            _held.discard(self._mine.token)

    def take(self, wait: float) -> None:
        """Take the lease.

        Args:
            wait: Seconds to wait for a holder that is alive. A silent one is watched for as long as its lease lasts.

        Raises:
            CollectionBusyError: somebody alive holds it.
        """
        self._control.create()
        deadline = time.monotonic() + wait
        seen, since, moved = self._holder(), time.monotonic(), False
        while not self._try(seen, time.monotonic() - since):
            if (moved or self._lives(seen)) and time.monotonic() >= deadline:
                raise CollectionBusyError(self._name, str(seen))
            time.sleep(max(seen.seconds, 0.1) / _LOOKS)
            found = self._holder()
            if (found.token, found.beat) != (seen.token, seen.beat):
                moved = bool(found.token)
                seen, since = found, time.monotonic()

    def check(self) -> None:
        """Make sure that the lease is held, renewing it when half of it has passed.

        Raises:
            LeaseLostError: another run took it.
            StoreUnavailableError: the store cannot say.
        """
        late = time.monotonic() - self._confirmed > self._mine.seconds / 2
        if self._other is None and late and not self._alone:
            self._renew()
        if self._other is not None:
            raise LeaseLostError(self._name, str(self._other))

    def beat(self) -> None:
        """Renew in the background, until the lease ends, so that a long computation does not lose it."""
        while not self._ended.wait(self._mine.seconds / BEATS):
            try:
                self._renew()
            except StoreUnavailableError:
                continue  # the next beat may come through; `check` says when it is too late
            if self._other is not None:
                return

    def release(self) -> None:
        """Give the lease back, if it is still held; where the store cannot be told soon, the lease runs out by itself.

        Who ends a run has half a minute for it, and a server that swallows requests is waited for longer by each.
        """
        self._ended.set()
        if self._alone:
            self._give_back()
            return
        giving = threading.Thread(target=self._give_back, name=f"end of the lease of {self._name}", daemon=True)
        giving.start()
        giving.join(_PARTING)

    def _give_back(self) -> None:
        free = Holder(beat=self._mine.beat + 1)
        try:
            with self._renewing:
                self._control.put(LEASE_KIND, asdict(free), only={"token": self._mine.token})
        except (StoreUnavailableError, StoreError) as error:
            # All that the run had to do is done, or its own error is on its way.
            _logger.warning("the write lease of %r was not given back and runs out by itself: %s", self._name, error)

    def _try(self, seen: Holder, silent: float) -> bool:
        """Take the lease from a holder that is gone; False when there is one, or somebody else was quicker."""
        expired = silent > seen.seconds and not self._alone
        if seen.token and not expired and not self._is_left_over(seen):
            return False
        started = time.monotonic()
        self._mine = replace(self._mine, beat=seen.beat + 1)
        self._control.put(LEASE_KIND, asdict(self._mine), only={"token": seen.token, "beat": seen.beat})
        self._confirmed = started
        return self._holder().token == self._mine.token

    def _renew(self) -> None:
        with self._renewing:
            if self._ended.is_set():
                return
            started = time.monotonic()
            raised = replace(self._mine, beat=self._mine.beat + 1)
            self._control.put(LEASE_KIND, asdict(raised), only={"token": raised.token})
            found = self._holder()
            if found.token != raised.token:
                self._other = found
                return
            self._mine, self._confirmed = raised, started

    def _holder(self) -> Holder:
        return read_holder(self._control.get(LEASE_KIND))

    def _is_left_over(self, holder: Holder) -> bool:
        """Tell that a holder is dead without watching it."""
        near = self._alone or (bool(holder.machine) and holder.machine == self._mine.machine)
        return near and not self._lives(holder)

    def _lives(self, holder: Holder) -> bool:
        """Tell that a holder is alive without watching it."""
        if (holder.host, holder.pid, holder.process) == (self._mine.host, self._mine.pid, self._mine.process):
            return holder.token in _held
        if self._alone or not holder.machine or holder.machine != self._mine.machine:
            return False
        return _process_start(holder.pid) == holder.process


@contextmanager
def write_lease(store: Store, name: str, wait: float = 0.0) -> Iterator[Lease]:
    """Hold the write lease of a name.

    Args:
        store: Where the name is.
        name: Collection.
        wait: Seconds to wait for another holder that is alive.

    Raises:
        CollectionBusyError: somebody else holds it.
        LeaseLostError: from any call to `Lease.store`, when another run took it meanwhile.
    """
    lease = Lease(store, name, load_settings().lease_seconds)
    with lease.noted():
        lease.take(wait)
        try:
            if not store.embedded:  # whose writes must all come from one thread
                threading.Thread(target=lease.beat, name=f"lease of {name}", daemon=True).start()
            yield lease
        finally:
            lease.release()


def holder(store: Store, name: str) -> str | None:
    """Say who holds the lease of a name, or seems to; None when nobody does."""
    control = Control(store, name)
    found = read_holder(control.get(LEASE_KIND)) if control.exists() else Holder()
    return str(found) if found.token else None


def free_left_over(store: Store, name: str) -> str | None:
    """Give back the lease of a holder that is known to be dead; one that lives, or may live, keeps it.

    Returns:
        Who held it; None when it was nobody's, or was not given back.
    """
    lease, control = Lease(store, name, load_settings().lease_seconds), Control(store, name)
    found = read_holder(control.get(LEASE_KIND)) if control.exists() else Holder()
    if not found.token or not lease._is_left_over(found):
        return None
    free = Holder(beat=found.beat + 1)
    control.put(LEASE_KIND, asdict(free), only={"token": found.token, "beat": found.beat})
    return str(found) if not read_holder(control.get(LEASE_KIND)).token else None


def _myself(seconds: float) -> Holder:
    pid = os.getpid()
    return Holder(
        token=uuid.uuid4().hex,
        seconds=seconds,
        machine=_machine(),
        host=socket.gethostname(),
        pid=pid,
        process=_process_start(pid),
        since=now(),
    )


def _machine() -> str:
    """Name this boot of this system and this space of process numbers; "" where Linux' /proc is not there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Return when a process began; "" when it is gone or only waits to be buried."""
    try:
        state, *others = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else others[_START - 1]
