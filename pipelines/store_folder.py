"""A folder as an embedded store: whether it is one, who holds it, and its catalogue.

The catalogue, `meta.json`, names the collections and what an alias points to; without it all points are lost. Clients
before 1.20 write it in place, where a kill leaves half of it, and none waits for the disk, so that a loss of power
may leave nothing. Before every change a copy is put by that is on the disk, and the next one to open the folder
returns to it where the catalogue itself is torn: the change was not made then, and is made again by whoever continues.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import StoreError, StoreLockedError, StoreNotFoundError

if TYPE_CHECKING:
    from typing import TextIO

_META = "meta.json"
_KEPT = f"{_META}.kept"
_LOCK = ".kvembed-lock"
_QDRANT_LOCK = ".lock"


def refuse_foreign(folder: Path, *, create: bool) -> None:
    """Let only a store pass, or what may become one; nothing is written.

    Args:
        folder: Where the store is, or is to be.
        create: It may be made.

    Raises:
        StoreNotFoundError: there is none, and none may be made.
        StoreError: a file, or a folder of something else.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"store {folder} is a file; give a folder, an http(s):// URL, or nothing for ./.kvembed")
    if (folder / _META).is_file():
        _refuse_foreign_catalogue(folder)
        return
    if not create:
        raise StoreNotFoundError(str(folder))
    if not folder.is_dir():
        return
    others = sorted({entry.name for entry in folder.iterdir()} - {_LOCK, _QDRANT_LOCK, f"{_META}.new"})
    if others:
        raise StoreError(
            f"{folder} holds other files ({', '.join(others[:3])}) and no store; "
            "give a new or empty folder, so that nothing of yours is mixed with the store"
        )


def _refuse_foreign_catalogue(folder: Path) -> None:
    """Know Qdrant's catalogue by its two parts; what is no JSON may be a store that broke, and is named as that."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    except ValueError:
        return
    if not (isinstance(meta, dict) and all(isinstance(meta.get(part), dict) for part in ("collections", "aliases"))):
        raise StoreError(f"{folder / _META} is not a Qdrant store's; give a new or empty folder")


def lock_folder(folder: Path) -> TextIO:
    """Take the folder before Qdrant reads it: Qdrant locks only after it has loaded, and may hold what is stale.

    Raises:
        StoreLockedError: another process, or another client in this one, has it.
    """
    lock = _locked_file(folder / _LOCK)
    try:
        if (folder / _QDRANT_LOCK).exists():
            _locked_file(folder / _QDRANT_LOCK).close()  # held by a client that is not ours
    except BaseException:
        lock.close()
        raise
    return lock


def _locked_file(path: Path) -> TextIO:
    import portalocker  # here, because it loads a client for Redis

    file = path.open("a+", encoding="utf-8")
    try:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.exceptions.LockException as error:
        file.close()
        raise locked(str(path.parent)) from error
    return file


def prepare(folder: Path) -> None:
    """See to it that there is a whole catalogue: the one that is there, the copy of it, or an empty one."""
    meta, kept = folder / _META, folder / _KEPT
    if _is_whole(meta):
        return
    if _is_whole(kept):
        _put(meta, kept.read_bytes())
    elif not meta.is_file() or (meta.stat().st_size == 0 and not (folder / "collection").exists()):
        _put(meta, json.dumps({"collections": {}, "aliases": {}}).encode("ascii"))


@contextmanager
def catalogue_kept(folder: Path) -> Iterator[None]:
    """Put a copy of the catalogue by while it is changed, and let the change reach the disk."""
    meta = folder / _META
    _put(folder / _KEPT, meta.read_bytes())
    yield
    for changed in (meta, folder / "collection", folder):
        if changed.exists():
            _sync(changed)


def _is_whole(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (FileNotFoundError, ValueError):
        return False


def _put(path: Path, content: bytes) -> None:
    """Write a file in one step: there is the old one or the new one, after a loss of power too."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content)
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def locked(label: str) -> StoreLockedError:
    """Say that somebody else has the folder."""
    return StoreLockedError(
        f"store {label} is in use by another process, or by another client in this one; wait until it is done, "
        "close that client or pass it in, or run a Qdrant server (docker compose up -d qdrant) and give its URL"
    )
