"""A worker writes only while the lease of its run is held, as far as it can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import pytest

from pipelines import LeaseLostError, followed_lease
from pipelines.control import Control
from pipelines.followed_lease import FollowedLease
from pipelines.lease_holder import LEASE_KIND, Holder, Ticket
from pipelines.store import Store, open_store
from tests.pipelines.stores import WatchedClient

SECONDS = 60.0


class Clock:
    now = 1000.0

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while somebody sleeps."""

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(followed_lease, "time", made)
    return made


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store(WatchedClient()) as opened:
        Control(opened, "notes").create()
        yield opened


def hold(store: Store, holder: Holder) -> Holder:
    Control(store, "notes").put(LEASE_KIND, asdict(holder))
    return holder


OURS = Holder("ours", beat=3, seconds=SECONDS, host="here", pid=1, since="now")


def test_lease_whose_beat_rises_is_held_for_ever(store, clock):
    holder = hold(store, OURS)
    followed = FollowedLease(store, Ticket("notes", "ours", SECONDS))
    for _ in range(50):
        clock.now += SECONDS / 6
        holder = hold(store, replace(holder, beat=holder.beat + 1))
        followed.check()


def test_lease_that_another_run_took_is_lost_at_the_next_look(store, clock):
    hold(store, OURS)
    followed = FollowedLease(store, Ticket("notes", "ours", SECONDS))
    clock.now += SECONDS / 5
    followed.check()
    hold(store, replace(OURS, token="theirs", host="there", pid=2))
    clock.now += SECONDS / 5
    with pytest.raises(LeaseLostError, match="process 2 on there"):
        followed.check()


def test_lease_that_was_not_looked_at_for_long_is_held_as_soon_as_it_beats_again(store, clock):
    """A worker that embeds for longer than the lease lasts makes no call to the store meanwhile."""
    holder = hold(store, OURS)
    followed = FollowedLease(store, Ticket("notes", "ours", SECONDS))
    beats = 0

    def beat() -> None:
        nonlocal holder, beats
        beats += 1
        holder = hold(store, replace(holder, beat=holder.beat + 1))

    clock.meanwhile = beat
    for _ in range(3):
        clock.now += 3 * SECONDS
        beat()
        followed.check()
    assert beats == 3 + 3, "one look more each time is enough"


def test_lease_that_was_taken_while_nobody_looked_is_lost(store, clock):
    hold(store, OURS)
    followed = FollowedLease(store, Ticket("notes", "ours", SECONDS))
    clock.now += 3 * SECONDS
    clock.meanwhile = lambda: hold(store, replace(OURS, token="theirs", host="there", pid=2))
    with pytest.raises(LeaseLostError, match="process 2 on there"):
        followed.check()


def test_lease_whose_beat_stands_still_is_lost_when_another_run_may_take_it(store, clock):
    """The holder may be dead: nobody may take it for its seconds, counted from the look before the last rise."""
    hold(store, OURS)
    followed = FollowedLease(store, Ticket("notes", "ours", SECONDS))
    spent = 0.0
    while spent + SECONDS / 4 <= SECONDS:
        clock.now += SECONDS / 4
        spent += SECONDS / 4
        followed.check()
    clock.now += SECONDS / 4
    with pytest.raises(LeaseLostError):
        followed.check()


def test_lease_is_looked_at_a_few_times_while_it_lasts_and_not_at_every_call(store, clock):
    hold(store, OURS)
    followed = FollowedLease(store, Ticket("notes", "ours", SECONDS))
    looks = 0
    get = Control.get

    def counted(self: Control, kind: str) -> object:
        nonlocal looks
        looks += 1
        return get(self, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Control, "get", counted)
        for _ in range(1000):
            clock.now += SECONDS / 1100
            followed.check()
    assert 5 <= looks <= 6
