"""Prefect's server, a worker and PostgreSQL as processes on the loopback interface, ended by their ids."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError
from urllib.request import urlopen

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

# Loaded by every Python of the stack: what would leave the machine fails, and says so in a file.
SITE = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open(os.environ["LEFT_THE_MACHINE"], "a") as noted:
            noted.write(f"{address}\\n")
        raise OSError("offline")
    return _connect(self, address)
socket.socket.connect = connect
"""


class Stack:
    """Starts processes in sessions of their own, with one environment.

    Args:
        folder: For logs, history and what else they write.
        variables: Of their environment, over a bare one.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVEMBED_"))}
        self.environment = {
            **kept,
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
            "LEFT_THE_MACHINE": str(folder / "left"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "KVEMBED_CACHE_DIR": str(folder / "cache"),
            **variables,
        }
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, name: str, user: int | None = None) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, user=user
            )
        self.started.append(process)
        return process

    def run(self, *command: str, **variables: str) -> str:
        """Run a command to its end, and return what it printed."""
        environment = {**self.environment, **variables}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def prefect(self, *arguments: str, **variables: str) -> str:
        """Run a command of Prefect's."""
        return self.run(sys.executable, "-m", "prefect", *arguments, **variables)

    def log(self, name: str) -> str:
        """Return what a process has said so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def left_the_machine(self) -> str:
        """Return the addresses that somebody tried to reach."""
        noted = self.folder / "left"
        return noted.read_text() if noted.exists() else ""

    def end(self) -> None:
        """End what was started, the last one first, with all that it started."""
        for process in reversed(self.started):
            for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
                if process.poll() is None:
                    process.send_signal(number)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(patience)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(what: Callable[[], T], seconds: float, said: str) -> T:
    """Call until something is returned, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {said}")


def answers(url: str) -> bool:
    """Tell whether a server answers well."""
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def processes(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, _group, owner = stat.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


@contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """Run a PostgreSQL of its own, and yield the settings by which Prefect finds it.

    PostgreSQL refuses to run as root: there it runs as `nobody`.
    """
    port, data = free_port(), folder / "postgres"
    data.mkdir()
    user = 65534 if os.geteuid() == 0 else None
    if user is not None:
        for path in (*list(data.parents)[:3], data):
            path.chmod(path.stat().st_mode | 0o011)
        os.chown(data, user, user)
    settings = {"cwd": data, "user": user, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([needed("initdb"), "--pgdata", str(data), "--auth", "trust", "--username", "prefect"], **settings)
    command = [needed("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data), "-F"]
    server = subprocess.Popen(command, cwd=data, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port), 30, "PostgreSQL")
        yield {
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(port),
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_NAME": "postgres",
            "PREFECT_SERVER_DATABASE_PASSWORD": "unasked",
        }
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait(30)


def needed(program: str) -> str:
    """Return where a program is."""
    found = shutil.which(program)
    assert found is not None, f"{program} is not installed"
    return found


def listens(port: int) -> bool:
    """Tell whether somebody takes connections at a port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
