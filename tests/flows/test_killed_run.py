"""A run that is killed leaves nothing behind: no process, and nothing that the next run stumbles over."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import prefect
import pytest

# What is opened naps in its group of shards, so that the run is killed in the middle of a task; connections that would
# leave the machine are refused and say so on stderr, which the run must keep empty.
RUN = """
import socket, sys, time

real_connect = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("left the machine:", address, file=sys.stderr)
        raise OSError("offline")
    return real_connect(self, address)
socket.socket.connect = connect

import flows.index, pipelines
from contextlib import contextmanager
from types import SimpleNamespace

REPORT = SimpleNamespace(source="docs", quarantined=(), to_dict=lambda: {"collection": "naps"})
PLANNED = SimpleNamespace(added=(), changed=(), moved=(), deleted=(), unchanged=0)

class Nap:
    def plan(self):
        return PLANNED
    def groups(self, most):
        return [SimpleNamespace(number=0)]
    def run_group(self, group):
        print("IN TASK", flush=True)
        time.sleep(float(sys.argv[1]))
        return SimpleNamespace(documents=0, chunks=0, tokens=0)
    def verify(self):
        pass
    def promote(self):
        return REPORT

@contextmanager
def open_indexing(*args, **kwargs):
    yield Nap()

flows.index.open_indexing = open_indexing
flows.index.open_encoder = lambda *args, **kwargs: None
pipelines.open_source = lambda source, **fields: source
flows.run_index("docs", "store", "naps", "kvembed/demo")
print("DONE", flush=True)
"""


@pytest.fixture
def cache(api, run_history, tmp_path):
    """A cache folder whose run history has its schema already, which takes most of a first start."""
    home = tmp_path / "cache" / f"prefect-{prefect.__version__}"
    home.mkdir(parents=True)
    with (
        closing(sqlite3.connect(run_history / "prefect.db")) as made,
        closing(sqlite3.connect(home / "prefect.db")) as copy,
    ):
        made.backup(copy)
    return tmp_path / "cache"


@pytest.fixture
def start(cache, tmp_path):
    """Start runs, each the head of a session of its own so that its descendants can be found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"KVEMBED_CACHE_DIR": str(cache), "HOME": str(tmp_path)}
    started = []

    def start(nap: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(nap)],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def survivors(session: int) -> list[int]:
    """Return the living processes of a session, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, _group, owner = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(session: int, seconds: float = 10) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := survivors(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds descendants through /proc")
def test_killed_run_leaves_no_process_and_the_next_run_works(start):
    """Prefect's own ephemeral server is a child process: this fails as soon as one is used."""
    killed = {signal.SIGTERM: start(60), signal.SIGKILL: start(60)}
    for process in killed.values():
        assert process.stdout.readline() == "IN TASK\n", process.stderr.read()
        assert process.pid in survivors(process.pid)
    for name, process in killed.items():
        process.send_signal(name)
        assert process.wait(timeout=20) == -name
        assert wait_until_gone(process.pid) == []
    following = start(0)
    output, errors = following.communicate(timeout=120)
    assert (following.returncode, output, errors) == (0, "IN TASK\nDONE\n", "")
    assert wait_until_gone(following.pid) == []
