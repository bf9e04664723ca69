"""Gives orders to processes that are doomed, from the side of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.doomed import Order

ROOT = Path(__file__).parents[2]


class Workshop:
    """Has one process at a time at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def done(self, order: Order) -> int:
        """Wait for the end of an order; returns the exit status, -9 for a process that was killed."""
        self._begin(order)
        return int(self._heard("ended"))

    def killed_after(self, order: Order, word: str, seconds: float) -> bool:
        """Kill the process that long after it has said a word; False if it was done by then.

        Args:
            order: What to do.
            word: "compared", of source and ledger, or "writing", which is not said where there is nothing to write.
            seconds: What to wait.
        """
        pid = self._begin(order)
        if not self._comes_to(word):
            return False
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return int(self._heard("ended")) == -signal.SIGKILL

    def _begin(self, order: Order) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(order.line())
        self._process.stdin.flush()
        return int(self._heard("began"))

    def _comes_to(self, word: str) -> bool:
        """Read what processes say up to a word; False if the process ends, and well, without it."""
        for said, rest in self._lines():
            if said in (word, "ended"):
                assert said == word or rest == "0", f"the process ended with {rest} before it said {word}"
                return said == word
        raise AssertionError("the workshop is closed")

    def _heard(self, word: str) -> str:
        """Read what processes say up to a word; returns what stands behind it."""
        for said, rest in self._lines():
            if said == word:
                return rest
            assert said != "ended", f"the process ended with {rest} before it said {word}"
        raise AssertionError("the workshop is closed")

    def _lines(self) -> Iterator[tuple[str, str]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said, _, rest = line.strip().partition(" ")
            yield said, rest


@contextmanager
def workshop() -> Iterator[Workshop]:
    command = [sys.executable, "-m", "tests.faults.doomed"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        yield Workshop(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
