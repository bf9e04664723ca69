"""Disks that are full, or that nobody may write to, for real: the run ends with one message and loses nothing.

Whatever moment the room ends at, what was committed stays, a document that did not change is found, and one run with
room leaves what a clean build leaves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.corpus import edition
from tests.faults.small_disk import DOCUMENTS, build

ROOT = Path(__file__).parents[2]
APART = ["unshare", "--user", "--map-root-user", "--mount"]
INDEXES = 160 << 10  # of the write-ahead logs, and two catalogues: a disk with less room cannot even open them

CHUNKS = 8
"""Of every document, in every edition."""
OPEN = "from pipelines.cli import main; main()"

UNCHANGED = {document.id for document in edition(0)[:DOCUMENTS] if document in edition(1)[:DOCUMENTS]}
BEFORE = {document.id for document in edition(0)[:DOCUMENTS]}
IN_BOTH = BEFORE & {document.id for document in edition(1)[:DOCUMENTS]}


@pytest.fixture(scope="module")
def small_disks() -> None:
    """Skip where a process may not have a file system of its own."""
    allowed = (
        shutil.which("unshare") is not None
        and not subprocess.run(
            [*APART, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
    )
    if not allowed:
        pytest.skip("no process may mount a file system of its own here (unshare --user --mount)")


def out_of_room(kind: str, start: str, folder: Path, step: int, fine: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.faults.small_disk", kind, start, str(folder), str(step), str(fine)]
    folder.mkdir()
    done = subprocess.run(
        [*(APART if kind == "disk" else []), *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(runs: list[dict[str, Any]], start: str) -> None:
    *failed, enough = runs
    assert len(failed) > 5, "the room hardly ever ended inside a run; the corpus is too small"
    assert enough["error"] == ""
    for run in runs:
        assert run["same"], f"with {run['room']} bytes: one more run did not leave what a clean build leaves"
        if start != "empty":
            whole = {document_id for document_id, chunks in run["found"].items() if chunks >= CHUNKS}
            assert whole >= UNCHANGED, f"with {run['room']} bytes: an unchanged document was lost"
            assert whole >= IN_BOTH, f"with {run['room']} bytes: a document was found in neither form"
    if start == "rebuilt":
        assert all(set(run["found"]) == BEFORE for run in failed), "the name was moved to what is not complete"
    if start == "filled":
        progress = [len(set(run["found"]) - IN_BOTH) for run in failed]
        assert len(set(progress)) > 2, "the room ended before or after the writing only"


@pytest.mark.parametrize("start", ["empty", "filled", "rebuilt"])
def test_ingest_on_a_disk_that_fills_up_says_so_and_loses_nothing(
    tmp_path: Path, start: str, small_disks: None
) -> None:
    runs = out_of_room("disk", start, tmp_path / "disk", 128 << 10, 32 << 10)
    check(runs, start)
    for run in runs[:-1]:
        if "disk I/O error" not in run["message"]:
            assert run["error"] == "StoreFullError", run
            assert "make room and run again" in run["message"]
        else:
            assert run["room"] < INDEXES, "SQLite says so where it makes the index of a log; what is it here?"
        if run["room"] >= INDEXES:
            assert run["refused"] == "", "no reader could open the store while there was no room"


@pytest.mark.slow
def test_index_on_a_full_disk_exits_with_one_message(tmp_path: Path, tiny_model_dir: Path, small_disks: None) -> None:
    (tmp_path / "notes").mkdir()
    for document in edition(1)[:DOCUMENTS]:
        (tmp_path / "notes" / document.source).write_text(document.text)
    (tmp_path / "disk").mkdir()
    index = [sys.executable, "-c", OPEN, "index", str(tmp_path / "notes"), "-c", "notes", "--json"]
    index += ["--store", str(tmp_path / "disk" / "store"), "--model", str(tiny_model_dir), "--layers", "1"]
    script = 'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"'
    done = subprocess.run(
        [*APART, "sh", "-c", script, str(tmp_path / "disk"), *index],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "StoreFullError"
    assert "make room and run again" in error["message"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("start", ["empty", "filled", "rebuilt"])
def test_ingest_on_a_disk_that_fills_up_at_any_page_loses_nothing(
    tmp_path: Path, start: str, small_disks: None
) -> None:
    check(out_of_room("disk", start, tmp_path / "disk", 4096, 4096), start)


@pytest.mark.parametrize("start", [pytest.param("empty", marks=pytest.mark.slow), "filled"])
def test_ingest_beyond_a_quota_says_so_and_loses_nothing(tmp_path: Path, start: str) -> None:
    """No system has a quota on request, so the limit of a file's size stands for it; SQLite takes both the same way."""
    runs = out_of_room("limit", start, tmp_path / "disk", 64 << 10, 32 << 10)
    check(runs, start)
    for run in runs[:-1]:
        assert run["error"] in ("StoreFullError", "StoreError"), run
        assert str(tmp_path) in run["message"]


@pytest.fixture
def unprivileged() -> list[str]:
    """What to put before a command so that no permission of a file is ignored for it, as root's would be."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("root ignores permissions, and cannot give that up here (setpriv)")
    return command


def attempted(store: Path, before: list[str], script: str = 'exec "$@"') -> str:
    """Index into a store that may not be written, in another process; returns what it said."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.faults.small_disk import build, found_in, outcome\n"
        "store = Path(sys.argv[1])\nprint(*outcome(lambda: build(store, 1)))\nprint(*outcome(lambda: found_in(store)))"
    )
    done = subprocess.run(
        [*before, "sh", "-c", script, str(store), sys.executable, "-c", code, str(store)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Path]:
    store = tmp_path / "store"
    build(store, 0)
    yield store
    for entry in [store, *store.rglob("*")]:
        entry.chmod(0o755)


@pytest.mark.parametrize("kind", ["folders", "files", "databases"])
def test_ingest_into_a_store_that_may_not_be_written_is_refused_and_changes_nothing(
    filled: Path, unprivileged: list[str], kind: str
) -> None:
    before = files(filled)
    for path in [filled, *filled.rglob("storage.sqlite" if kind == "databases" else "*")]:
        if path.is_dir() == (kind == "folders"):
            path.chmod(0o555)
    said = attempted(filled, unprivileged)
    assert re.match(r"StoreError store \S+ cannot be opened for writing; make the folder writable", said), said
    after = files(filled)
    assert before.items() <= after.items()
    assert all(name.endswith("-shm") for name in after.keys() - before.keys() if after[name]), "a log was begun"


def test_ingest_into_a_new_store_where_none_may_be_made_is_refused(tmp_path: Path, unprivileged: list[str]) -> None:
    (tmp_path / "others").mkdir(mode=0o555)
    said = attempted(tmp_path / "others" / "store", unprivileged)
    assert re.match(r"StoreError store \S+ cannot be opened for writing; make the folder writable", said), said
    assert list((tmp_path / "others").iterdir()) == []


def test_ingest_on_a_read_only_file_system_is_refused(filled: Path, small_disks: None) -> None:
    before = files(filled)
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    said = attempted(filled, APART, script)
    assert re.match(r"StoreError store \S+ cannot be opened for writing; make the folder writable", said), said
    assert files(filled) == before
