"""SIGTERM ends a command as Ctrl-C does, so that what it holds is released: a scheduler stops its jobs this way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came; whoever knows Ctrl-C knows this."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Raise `Terminated` in the main thread when SIGTERM comes; one that comes again while all is closed is ignored.

    A handler that someone else has set stays, and so does a SIGTERM that the parent process had ignored.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
