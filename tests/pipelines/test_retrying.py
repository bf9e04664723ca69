"""A server that does not answer is waited for, within bounds; one that refuses is not asked again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.errors import LeaseLostError, StoreError, StoreUnavailableError
from pipelines.retrying import Retrying, RetryPolicy


class Clock:
    """Time that passes only in sleep, or as a call takes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def retrying(self, policy: RetryPolicy, chance: float = 1.0) -> Retrying:
        return Retrying(policy, sleep=self.sleep, clock=lambda: self.now, chance=lambda: chance)


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, make: Callable[[], Exception] = lambda: StoreUnavailableError("away")) -> None:
        self.failures = failures
        self.calls = 0
        self._make = make

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self._make()
        return "answer"


def test_call_that_answers_does_not_wait() -> None:
    clock, call = Clock(), Flaky(0)
    assert clock.retrying(RetryPolicy()).call(call) == "answer"
    assert (call.calls, clock.slept) == (1, [])


def test_call_repeated_pauses_double_up_to_the_longest() -> None:
    clock, call = Clock(), Flaky(6)
    policy = RetryPolicy(retries=6, seconds=100, first_pause=0.5, longest_pause=4)
    assert clock.retrying(policy).call(call) == "answer"
    assert clock.slept == [0.5, 1, 2, 4, 4, 4]


def test_call_repeated_pauses_are_drawn_from_the_whole_span() -> None:
    """Full jitter: a draw of 0 is no pause at all."""
    for chance, first in ((0.0, 0.0), (0.25, 0.125)):
        clock = Clock()
        clock.retrying(RetryPolicy(first_pause=0.5), chance).call(Flaky(1))
        assert clock.slept == [first]


def test_call_repeated_gives_up_after_its_retries() -> None:
    clock, call = Clock(), Flaky(99)
    with pytest.raises(StoreUnavailableError, match="away"):
        clock.retrying(RetryPolicy(retries=3, seconds=1e9)).call(call)
    assert call.calls == 4


def test_call_repeated_gives_up_when_time_is_up() -> None:
    clock, call = Clock(), Flaky(99)
    with pytest.raises(StoreUnavailableError):
        clock.retrying(RetryPolicy(retries=99, seconds=10, first_pause=4, longest_pause=4)).call(call)
    assert clock.slept == [4, 4, 2]  # the last attempt is at the end of the time, not after it
    assert call.calls == 4


def test_call_whose_attempt_took_the_time_is_not_repeated() -> None:
    clock = Clock()

    def slow() -> str:
        clock.now += 60
        raise StoreUnavailableError("no answer in time")

    with pytest.raises(StoreUnavailableError):
        clock.retrying(RetryPolicy(seconds=50)).call(slow)
    assert clock.slept == []


def test_call_with_retry_after_waits_at_least_that_long() -> None:
    clock = Clock()
    call = Flaky(2, lambda: StoreUnavailableError("slow down", retry_after=7.0))
    clock.retrying(RetryPolicy(first_pause=0.5), 0.5).call(call)
    assert clock.slept == [7.25, 7.5]


def test_call_with_retry_after_beyond_the_time_is_handed_on_at_once() -> None:
    """Whoever scheduled the run can wait that long; a call that must not be made before cannot."""
    clock = Clock()
    call = Flaky(1, lambda: StoreUnavailableError("slow down", retry_after=500.0))
    with pytest.raises(StoreUnavailableError) as caught:
        clock.retrying(RetryPolicy(seconds=120)).call(call)
    assert (caught.value.retry_after, call.calls, clock.slept) == (500.0, 1, [])


@pytest.mark.parametrize("error", [StoreError("refused"), LeaseLostError("c", "another"), ValueError("ours")])
def test_call_that_is_refused_is_made_once(error: Exception) -> None:
    clock = Clock()

    def refuse() -> Exception:
        return error

    call = Flaky(1, refuse)
    with pytest.raises(type(error)):
        clock.retrying(RetryPolicy()).call(call)
    assert (call.calls, clock.slept) == (1, [])


def test_call_without_retries_is_made_once() -> None:
    for policy in (RetryPolicy(retries=0), RetryPolicy(seconds=0)):
        call = Flaky(1)
        with pytest.raises(StoreUnavailableError):
            Clock().retrying(policy).call(call)
        assert call.calls == 1


def test_call_before_is_asked_before_every_attempt_and_ends_the_call() -> None:
    """A lease that was lost while the server was waited for must stop the repetition."""
    clock, call = Clock(), Flaky(99)
    asked = 0

    def lost_at_third() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise LeaseLostError("c", "another run")

    with pytest.raises(LeaseLostError):
        clock.retrying(RetryPolicy()).call(call, lost_at_third)
    assert (asked, call.calls) == (3, 2)


def test_call_before_is_never_repeated_itself() -> None:
    asked = 0

    def away() -> None:
        nonlocal asked
        asked += 1
        raise StoreUnavailableError("the check's own")

    with pytest.raises(StoreUnavailableError, match="the check's own"):
        Clock().retrying(RetryPolicy()).call(Flaky(0), away)
    assert asked == 1


def test_policy_for_opening_is_never_longer() -> None:
    assert RetryPolicy().for_opening().seconds == 10.0
    assert RetryPolicy(retries=1, seconds=0.5).for_opening() == RetryPolicy(retries=1, seconds=0.5)


def test_policy_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds is -1; give 0 or more"):
        RetryPolicy(seconds=-1)


def test_pause_after_very_many_retries_is_finite() -> None:
    clock, call = Clock(), Flaky(1100)
    clock.retrying(RetryPolicy(retries=1100, seconds=1e9, longest_pause=1.0)).call(call)
    assert clock.slept[-1] == 1.0
