"""A lease that its run cannot give back, and one that the store does not take back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
from qdrant_client import QdrantClient

from pipelines import StoreUnavailableError, lease
from pipelines.control import Control
from pipelines.lease import Holder, _myself, free_left_over, holder, write_lease
from pipelines.left_over import release_left_over
from pipelines.settings import provided_key
from pipelines.store import Store, open_store


class Served(Store):
    """A store in this process that is treated as one on a server, where other machines may write."""

    def __init__(self, client: QdrantClient) -> None:
        super().__init__(client, "test", owned=False)
        self.embedded = False

    def borrowed(self) -> Served:
        return Served(self.client)


@pytest.fixture
def store() -> Served:
    return Served(QdrantClient(":memory:"))


def seize(store: Store, found: Holder) -> Holder:
    control = Control(store, "notes")
    control.create()
    control.put("lease", asdict(found))
    return found


def dead() -> Holder:
    """Describe a holder on this machine whose process is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(_myself(60.0), token="theirs", beat=7, pid=process.pid, process="1")


def test_free_left_over_of_a_process_that_is_gone_gives_the_lease_back_and_names_it(store: Served) -> None:
    """Contract: a hook of the scheduler frees what a killed run held, before its minute has run out."""
    found = seize(store, dead())
    assert free_left_over(store, "notes") == str(found)
    assert holder(store, "notes") is None
    started = time.monotonic()
    with write_lease(store, "notes"):
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "living",
    [
        pytest.param({"pid": os.getppid()}, id="another-process-here"),
        pytest.param({"machine": "m", "host": "far", "pid": 1}, id="another-machine"),
    ],
)
def test_free_left_over_of_a_holder_that_may_live_keeps_the_lease(store: Served, living: dict[str, object]) -> None:
    """Contract: a hook that comes late must not free the lease of the run that follows."""
    mine = replace(_myself(60.0), token="theirs", **living)  # type: ignore[arg-type]
    if "machine" not in living:
        mine = replace(mine, process=lease._process_start(os.getppid()))
    seize(store, mine)
    assert free_left_over(store, "notes") is None
    assert holder(store, "notes") == str(mine)


def test_free_left_over_of_this_process_keeps_what_it_holds(store: Served) -> None:
    with write_lease(store, "notes"):
        assert free_left_over(store, "notes") is None
        assert holder(store, "notes") is not None


def test_free_left_over_when_the_next_run_was_quicker_changes_nothing(
    store: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    seize(store, dead())
    put = Control.put

    def late(self: Control, *args: object, **kwargs: object) -> None:
        put(self, "lease", asdict(Holder(token="next", beat=8, seconds=60.0, machine="m", host="far", pid=1)))
        put(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Control, "put", late)
    assert free_left_over(store, "notes") is None
    assert holder(store, "notes") == "process 1 on far since "


def test_release_left_over_without_a_store_or_a_lease_does_nothing(tmp_path) -> None:
    """A run that fails before it wrote anything has left nothing, and its failure is what is to be read."""
    assert release_left_over(tmp_path / "none", "notes") is None
    with open_store(tmp_path / "store"):
        assert release_left_over(tmp_path / "store", "notes") is None  # the folder is locked: somebody lives there
    assert release_left_over(tmp_path / "store", "notes") is None


def test_release_left_over_of_an_embedded_store_needs_no_proof_but_its_lock(tmp_path) -> None:
    with open_store(tmp_path) as opened:
        found = seize(opened, Holder(token="theirs", beat=7, seconds=60.0, host="container", pid=1))
    assert release_left_over(tmp_path, "notes") == str(found)
    assert release_left_over(tmp_path, "notes") is None


@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_write_lease_ends_soon_though_the_store_does_not_take_it_back(
    store: Served, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Contract: a run that is told to end is over in 30 s, also when its server is the reason."""
    monkeypatch.setattr(lease, "_PARTING", 0.2)
    waiting = threading.Event()
    with write_lease(store, "notes"):

        def put(*args: object, **kwargs: object) -> None:
            if kind == "refusing":
                raise StoreUnavailableError("no answer")
            waiting.wait(30)

        monkeypatch.setattr(Control, "put", put)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    waiting.set()


def test_provided_key_wins_over_the_environment_for_children_too_and_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Contract: the key of a secret store reaches worker processes, and outlives nobody."""
    monkeypatch.setenv("KVEMBED_QDRANT_API_KEY", "ours")
    with provided_key("theirs"):
        assert os.environ["KVEMBED_QDRANT_API_KEY"] == "theirs"
    assert os.environ["KVEMBED_QDRANT_API_KEY"] == "ours"
    with provided_key(None):
        assert os.environ["KVEMBED_QDRANT_API_KEY"] == "ours"
    monkeypatch.delenv("KVEMBED_QDRANT_API_KEY")
    with provided_key("theirs"):
        pass
    assert "KVEMBED_QDRANT_API_KEY" not in os.environ
