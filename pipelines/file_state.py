"""Reading files that somebody may be writing.

A file is the same before and after it was read when its identity, size and time of change are. What is written within
one tick of the file system's clock, some milliseconds, and leaves the size as it was may escape; every run reads
contents anew, so the next one sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TypeAlias

from pipelines.errors import PipelineError

FileState: TypeAlias = tuple[int, int, int, int]

_READS = 4
_PAUSE = 0.05
"""Seconds between two readings: one who saves a file is mostly done by then."""


class FileChangedError(PipelineError):
    """A file changed while it was read."""


def read_whole(path: Path) -> bytes:
    """Read a file as it was at one moment.

    Raises:
        FileChangedError: it changed during each of four readings.
        OSError: it cannot be read.
    """
    for reading in range(_READS):
        if reading:
            sleep(_PAUSE)
        before = file_state(path)
        data = path.read_bytes()
        if file_state(path) == before:
            return data
    raise FileChangedError(f"changed during each of {_READS} readings; run again when nobody writes it")


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Guard the reading of a file that is too large to be read again and compared.

    Raises:
        FileChangedError: it is another one at the end of the block than at its start.
        OSError: it is not there.
    """
    before = file_state(path)
    yield
    if file_state(path) != before:
        raise FileChangedError("changed while it was read; run again when nobody writes it")


def file_state(path: Path) -> FileState:
    """Return device, inode, size in bytes, and time of the last change in nanoseconds."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
