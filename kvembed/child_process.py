"""Processes of our own: started as fresh interpreters, spoken to through one socket, ended when it is closed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast


@dataclass(frozen=True, slots=True)
class Failed:
    """Starting, or a call, failed; no more of it comes."""

    call: int
    pickled: bytes
    kind: str
    message: str
    trace: str

    @classmethod
    def of(cls, call: int, error: Exception) -> Failed:
        """Describe an error so that nothing of it can keep it from arriving."""
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
        except Exception:  # noqa: BLE001 - an error of any class may refuse in any way; its text still goes
            pickled = b""
        return cls(call, pickled, type(error).__name__, str(error), traceback.format_exc())

    def error(self) -> Exception | None:
        """Return the error as it was raised in the child; None where it could not be sent."""
        return cast(Exception, pickle.loads(self.pickled)) if self.pickled else None


def launch(entry: str, environment: Mapping[str, str] | None = None) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start an interpreter that knows nothing of this program but where its modules lie.

    The program's main module is not imported, so it need not be guarded.

    Args:
        entry: `module:function`, called with the descriptor of the child's end of a socket.
        environment: Of the child; None gives it this process's.

    Returns:
        The process, and this end of the socket.
    """
    module, _, function = entry.partition(":")
    ours, theirs = multiprocessing.Pipe()
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function}; {function}({theirs.fileno()})"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            # Ctrl-C at a terminal is for the parent, which ends its workers.
            process_group=0,
        )
    return process, ours


def attend(descriptor: int, take: Callable[[object], None]) -> Connection:
    """In the child: open its end of the socket, and take messages as they come, so that nobody waits for the other.

    Args:
        descriptor: As the entry was given it.
        take: Called with every message, in a thread of its own. When the socket is closed, on purpose or because the
            other side died, the process ends at once.

    Returns:
        To answer through.
    """
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    threading.Thread(target=_listen, args=(connection, take), daemon=True).start()
    return connection


def _listen(connection: Connection, take: Callable[[object], None]) -> None:
    try:
        while True:
            take(connection.recv())
    except (EOFError, OSError):
        os._exit(0)
    except Exception:  # noqa: BLE001 - unpickling may raise anything
        # A message that cannot be read, such as a pass of a class that is not here: no answer would ever come.
        traceback.print_exc()
        os._exit(1)
