"""SIGTERM is turned into an exception where nobody else has a say over it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from pipelines.ending import Terminated, ending_in_order


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    """Without `ending_in_order`'s handler a signal of these tests would end the test run."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_raises_once_and_is_ignored_while_all_is_closed():
    closed = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)

    with pytest.raises(Terminated), ending_in_order():
        work()
    assert closed
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handler_of_someone_else_stays():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with ending_in_order():
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_sigterm_that_the_parent_ignored_stays_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with ending_in_order():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_another_thread_sets_no_handler():
    found = []

    def enter() -> None:
        with ending_in_order():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
