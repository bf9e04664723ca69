"""A folder as an embedded store: whether it is one, who holds it, and its first catalogue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipelines.errors import StoreError, StoreLockedError, StoreNotFoundError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

_META = "meta.json"
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
    """Put down the empty catalogue in one step: Qdrant's own first write can be cut in half by a kill."""
    meta = folder / _META
    if meta.is_file() and (meta.stat().st_size > 0 or (folder / "collection").exists()):
        return
    fresh = folder / f"{_META}.new"
    fresh.write_text(json.dumps({"collections": {}, "aliases": {}}), encoding="utf-8")
    fresh.replace(meta)


def locked(label: str) -> StoreLockedError:
    """Say that somebody else has the folder."""
    return StoreLockedError(
        f"store {label} is in use by another process, or by another client in this one; wait until it is done, "
        "close that client or pass it in, or run a Qdrant server (docker compose up -d) and give its URL"
    )
