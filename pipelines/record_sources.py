"""Files and datasets of records as sources: .jsonl, .parquet and hf:."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import TypeAlias

from pipelines.documents import Document, RejectedDocument, printable
from pipelines.errors import SourceError
from pipelines.file_state import FileChangedError, unchanged
from pipelines.records import FieldNames, Place, Row, check_fields, document_of, rejected_line

_BATCH_ROWS = 256
_OPENERS: dict[str, Callable[[Path], BufferedIOBase]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
_MAX_NAMES = 1000

Numbered: TypeAlias = "tuple[int, bytes, Row | str]"
"""Line number from 1, the line, and its record or the reason why it has none."""


class JsonlSource:
    """One JSON object per line, also compressed (.gz, .bz2, .xz); blank lines are passed over."""

    def __init__(self, path: Path, fields: FieldNames) -> None:
        self._path = path
        self._fields = fields
        self.description = printable(str(path))

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Read line by line; a line that is no record is rejected with its number.

        Raises:
            SourceError: the file cannot be read to its end, changes meanwhile, has no records, or lacks a needed field
                in every line.
        """
        self._check()
        name = printable(self._path.name)
        for number, raw, row in self._rows():
            place = Place(name, number - 1, f"line {number}")
            if isinstance(row, str):
                yield rejected_line(raw, self._fields, place, row)
            else:
                yield document_of(row, self._fields, place)

    def _check(self) -> None:
        """Read on until every needed field was seen, which is the first line unless the file is wrong."""
        names: dict[str, None] = {}
        first_reason = ""
        for _, _, row in self._rows():
            if isinstance(row, str):
                first_reason = first_reason or row
                continue
            names.update(dict.fromkeys(row) if len(names) < _MAX_NAMES else {})
            if not self._fields.lacking(names):
                return
        if not names:
            reason = f"no line is a JSON object (first: {first_reason})" if first_reason else "no records"
            raise SourceError(f"nothing to index in {self.description}: {reason}; write one JSON object per line")
        check_fields(self._fields, names, self.description)

    def _rows(self) -> Iterator[Numbered]:
        try:
            with unchanged(self._path), self._open() as lines:
                yield from (
                    (number, line, _record(line, first=number == 1))
                    for number, line in enumerate(lines, start=1)
                    if line.strip()
                )
        except FileChangedError as error:
            # One that is written anew from its start has fewer lines for a while.
            raise SourceError(f"{self.description} {error}; what was indexed stays, nothing is deleted") from None
        except _READ_ERRORS as error:
            raise SourceError(
                f"{self.description} cannot be read to its end: {error}; "
                "what was indexed stays, nothing is deleted; make the file readable and run again"
            ) from None

    def _open(self) -> BufferedIOBase:
        opener = _OPENERS.get(self._path.suffix.lower())
        return opener(self._path) if opener else self._path.open("rb")


class ParquetSource:
    """The rows of a Parquet file, some hundred at a time."""

    def __init__(self, path: Path, fields: FieldNames) -> None:
        self._path = path
        self._fields = fields
        self.description = printable(str(path))

    def documents(self) -> Iterator[Document | RejectedDocument]:
        """Read row by row.

        Raises:
            SourceError: not a Parquet file, damaged, changed meanwhile, without rows, or without a needed column.
        """
        number = 0
        for number, row in enumerate(self._rows(), start=1):
            place = Place(printable(self._path.name), number - 1, f"row {number - 1}")
            yield document_of(row, self._fields, place)
        if not number:
            raise SourceError(f"nothing to index in {self.description}: no rows")

    def _rows(self) -> Iterator[Row]:
        import pyarrow
        from pyarrow import parquet

        try:
            with unchanged(self._path), parquet.ParquetFile(self._path) as table:
                check_fields(self._fields, table.schema_arrow.names, self.description)
                for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                    yield from batch.to_pylist()
        except FileChangedError as error:
            raise SourceError(f"{self.description} {error}; what was indexed stays, nothing is deleted") from None
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(f"{self.description} cannot be read as Parquet: {error}; write the file again") from None


def _record(line: bytes, *, first: bool) -> Row | str:
    """Read one line; a string is the reason why it is no record."""
    try:
        record = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x} at {error.start}); save the file as UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at character {error.pos}); write one JSON object per line"
    except (RecursionError, ValueError) as error:
        return f"not usable JSON ({error}); nest less deeply and write shorter numbers"
    if not isinstance(record, dict):
        return f"a JSON {type(record).__name__}, not an object; write one JSON object per line"
    return record
