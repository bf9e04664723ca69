"""A folder, or one file, as a source."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipelines.documents import Document, RejectedDocument, Stage, printable
from pipelines.errors import SourceError
from pipelines.file_state import FileChangedError, read_whole
from pipelines.parsed import ParseError
from pipelines.parsing import CODE_SUFFIXES, SUPPORTED_SUFFIXES, parse

_TEXT_NAMES = frozenset(
    "authors changelog changes contributing copying dockerfile history install license makefile news "
    "notice readme todo".split()
)
"""Files that are text although their name has no suffix."""


class FolderSource:
    """Every readable file under a folder, in sorted order.

    A document's id and source are its path relative to the folder, with "/" on every system. Hidden entries,
    unknown suffixes, links to folders and whatever is no regular file are skipped and counted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.description = printable(str(folder))
        self.skipped: Counter[str] = Counter()
        """Why, or which suffix -> how many, for the latest reading."""

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Read one file after the other.

        Raises:
            SourceError: a folder cannot be listed, or nothing in it can be indexed.
        """
        self.skipped.clear()
        found = False
        for path in self._files():
            found = True
            yield _read(path, path.relative_to(self._folder).as_posix())
        if not found:
            raise SourceError(
                f"nothing to index in {self._folder}: {self._skipped_text()}; "
                f"legal suffixes are {' '.join(sorted(SUPPORTED_SUFFIXES - CODE_SUFFIXES))} and source code"
            )

    def _files(self) -> Iterator[Path]:
        folders = [self._folder]
        while folders:
            entries = _listed(folders.pop())
            inner = []
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    inner.append(Path(entry.path))
                elif self._is_wanted(entry):
                    yield Path(entry.path)
            folders.extend(reversed(inner))

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        reason = _reason_to_skip(entry)
        if reason:
            self.skipped[reason] += 1
        return not reason

    def _skipped_text(self) -> str:
        if not self.skipped:
            return "it is empty"
        listed = ", ".join(f"{count} {reason}" for reason, count in self.skipped.most_common(8))
        return f"skipped {listed}"


class FileSource:
    """One file as one document, named by its file name; any suffix, unknown ones are read as text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.description = printable(str(path))

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Read the file.

        Raises:
            SourceError: it cannot be opened.
        """
        document = _read(self._path, self._path.name)
        if isinstance(document, RejectedDocument) and document.stage == "read":
            raise SourceError(f"{self._path} {document.reason}")
        yield document


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(
            f"folder {folder} cannot be listed: {error.strerror}; make it readable, or move it out of the source "
            "(an unreadable folder is not an empty one, so nothing is deleted)"
        ) from None


def _reason_to_skip(entry: os.DirEntry[str]) -> str:
    """Say why an entry that is no folder is no document either; empty if it may be one."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink() and os.path.isdir(entry.path):
        # Following it could go round in circles, or index the same file under two ids.
        return "link to a folder"
    if os.path.exists(entry.path) and not entry.is_file():
        return "no regular file"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUPPORTED_SUFFIXES or (not suffix and entry.name.lower() in _TEXT_NAMES):
        return ""
    return suffix or "no suffix"


def _read(path: Path, name: str) -> Document | RejectedDocument:
    try:
        data = read_whole(path)
    except FileChangedError as error:
        return _rejected(name, b"", "read", str(error))
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}; make it readable or remove it"
        return _rejected(name, b"", "read", reason)
    if name != printable(name):
        return _rejected(name, data, "read", "the file's name is not UTF-8; rename it")
    try:
        parsed = parse(data, path.suffix)
        title = parsed.title or (path.name if path.suffix.lower() in CODE_SUFFIXES else "")
        return Document(name, parsed.text, name, title, headings=parsed.headings, format=parsed.format)
    except (ParseError, ValueError) as error:
        return _rejected(name, data, "parse", str(error))


def _rejected(name: str, data: bytes, stage: Stage, reason: str) -> RejectedDocument:
    name = printable(name)
    return RejectedDocument(name, name, hashlib.sha256(data).hexdigest(), stage, printable(reason))
