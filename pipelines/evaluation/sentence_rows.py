"""Rows of a .tsv, .csv or .jsonl file, and their values with the line they stand in."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.beir import json_lines
from pipelines.errors import JSON, SourceError

SUFFIXES = (".tsv", ".csv", ".jsonl")
"""Tab-separated without any quoting, as STS files are; comma-separated, quoted as RFC 4180 says; an object a line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        file: Where it stands.
        line: From 1; of a quoted value that spans lines, its last.
        values: Column -> value.
    """

    file: Path
    line: int
    values: Mapping[str, JSON]

    def text(self, column: str) -> str:
        """Return a text; it may be empty.

        Raises:
            SourceError: it is none, or has half a character.
        """
        value = self.values.get(column)
        if not isinstance(value, str):
            raise self._wrong(column, "a text")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self._wrong(column, "whole characters; it has a lone surrogate") from None
        return value

    def label(self, column: str) -> str:
        """Return a label; numbers become text.

        Raises:
            SourceError: it is empty, or neither text nor number.
        """
        value = self.values.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self._wrong(column, "a label: a text or a whole number")
        return str(value)

    def score(self, column: str) -> float:
        """Return a number.

        Raises:
            SourceError: it is none, or not finite.
        """
        value = self.values.get(column)
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self._wrong(column, "a finite number")
        return number

    def _wrong(self, column: str, legal: str) -> SourceError:
        return SourceError(
            f"{self.file} line {self.line} has {self.values.get(column)!r:.80} as {column!r}; it must be {legal}"
        )


def find_split(folder: Path, split: str, layout: str, *, missing_ok: bool = False) -> Path | None:
    """Return the file of a folder that is named after a split.

    Args:
        folder: Where to look.
        split: Name without ending, such as "test".
        layout: What is legal, for the message.
        missing_ok: Return None instead of an error where there is none.

    Raises:
        SourceError: there is none, or several.
    """
    found = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
    if not found and missing_ok:
        return None
    if len(found) != 1:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
        several = f"has {' and '.join(path.name for path in found)}" if found else f"has no {split} file"
        raise SourceError(f"{folder} {several}; it has {', '.join(others) or 'no such files'}; give {layout}")
    return found[0]


def read_rows(path: Path, layout: str) -> list[Row]:
    """Read all rows of a file.

    Args:
        path: Its ending tells how it is read.
        layout: What is legal, for the message.

    Raises:
        SourceError: it cannot be read, is of another kind, is damaged, or has no row; naming the line.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        reason = "is no .tsv, .csv or .jsonl file" if path.exists() else "is not there"
        raise SourceError(f"{path} {reason}; give {layout}")
    try:
        read = _json_rows if path.suffix == ".jsonl" else _table_rows
        rows = list(read(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise SourceError(f"{path} has no row; give {layout}")
    return rows


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _json_rows(path: Path) -> Iterator[Row]:
    for number, record in json_lines(path):
        yield Row(path, number, record)


def _table_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, _Tabs if path.suffix == ".tsv" else csv.excel, strict=True)
        header = next(lines, [])
        for fields in lines:
            if not fields:
                continue
            if len(fields) != len(header):
                raise SourceError(
                    f"{path} line {lines.line_num} has {len(fields)} columns, its header {len(header)}: "
                    f"{', '.join(header)}"
                )
            yield Row(path, lines.line_num, dict(zip(header, fields, strict=True)))
