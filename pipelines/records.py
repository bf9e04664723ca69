"""One record with named fields -> one document."""

from __future__ import annotations

import codecs
import datetime
import decimal
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pipelines.documents import Document, RejectedDocument, printable
from pipelines.errors import JSON, SourceError
from pipelines.parsed import one_line

Row: TypeAlias = Mapping[str, object]

ROW_NUMBER = "#"
"""As id field: the record's position, from 0."""

_ID_FIELDS = ("id", "_id", "document_id")
_TEXT_FIELDS = ("text", "content", "page_content", "body")
_TITLE_FIELDS = ("title",)
_METADATA_FIELD = "metadata"

_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class FieldNames:
    """Which field of a record is its id, its text and its title."""

    id: str | None = None
    """None: the first of id, _id, document_id that a record has; "#": its position."""
    text: str | None = None
    """None: the first of text, content, page_content, body."""
    title: str | None = None
    """None: title, if there is one."""

    def id_candidates(self) -> tuple[str, ...]:
        """Fields that may hold the id, first come first served; none if records are numbered."""
        if self.id == ROW_NUMBER:
            return ()
        return (self.id,) if self.id else _ID_FIELDS

    def text_candidates(self) -> tuple[str, ...]:
        """Fields that may hold the text."""
        return (self.text,) if self.text else _TEXT_FIELDS

    def title_candidates(self) -> tuple[str, ...]:
        """Fields that may hold the title."""
        return (self.title,) if self.title else _TITLE_FIELDS

    def lacking(self, present: Iterable[str]) -> str:
        """Say which needed field no record has; empty if all are there.

        Args:
            present: Names of all the fields seen.
        """
        known = set(present)
        needs = [("text", self.text_candidates(), "--text-field FIELD")]
        if self.id != ROW_NUMBER:
            needs.append(("id", self.id_candidates(), "--id-field FIELD, or number records by --id-field '#'"))
        if self.title:
            needs.append(("title", self.title_candidates(), "--title-field FIELD"))
        for role, candidates, option in needs:
            if known.isdisjoint(candidates):
                looked = ", ".join(repr(name) for name in candidates)
                found = ", ".join(repr(printable(name)) for name in sorted(known)[:20]) or "none"
                return (
                    f"no record has a field for the {role} (looked for {looked}); fields found: {found}; "
                    f"name the {role} field with {option}"
                )
        return ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands, for ids by number and for messages."""

    source: str
    """Name of the file or dataset."""
    number: int
    """Position of the record, from 0."""
    spelled: str
    """As a person would look it up, such as "line 3"."""


def document_of(row: Row, fields: FieldNames, place: Place) -> Document | RejectedDocument:
    """Turn one record into a document; what is neither id, text nor title becomes metadata.

    The keys of a field named metadata that holds an object become metadata themselves.
    """
    used_id = _first_given(row, fields.id_candidates())
    used_text = _first_given(row, fields.text_candidates())
    used_title = _first_given(row, fields.title_candidates())
    try:
        document_id = _id(row, used_id, fields, place)
    except ValueError as error:
        return rejected_record(row, place, str(error))
    try:
        return Document(
            document_id,
            _text(row, used_text, fields),
            place.source,
            _title(row, used_title),
            _metadata(row, {used_id, used_text, used_title}),
        )
    except (ValueError, RecursionError) as error:
        return rejected_record(row, place, str(error), document_id)


def rejected_line(line: bytes, fields: FieldNames, place: Place, reason: str) -> RejectedDocument:
    """Refuse a line that is no record, under the id it would have had if that can be read all the same."""
    document_id = str(place.number) if fields.id == ROW_NUMBER else _id_in(line, fields, place)
    return rejected_record(line, place, reason, document_id or None, anonymous=document_id is None)


def rejected_record(
    row: object, place: Place, reason: str, document_id: str | None = None, *, anonymous: bool = False
) -> RejectedDocument:
    """Refuse one record, under its own id if it has one."""
    raw = row if isinstance(row, bytes) else repr(row).encode("utf-8", "backslashreplace")
    return RejectedDocument(
        printable(document_id or f"{place.source} {place.spelled}"),
        place.source,
        hashlib.sha256(raw).hexdigest(),
        "read",
        printable(f"{place.spelled}: {reason}"),
        anonymous,
    )


def json_value(value: object) -> JSON:
    """Return a value as JSON holds it.

    Dates become ISO 8601 text, decimals and whole numbers beyond 64 bits text, non-finite numbers null.

    Raises:
        TypeError: bytes, images and whatever else JSON cannot hold.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def check_fields(fields: FieldNames, present: Iterable[str], description: str) -> None:
    """Refuse a whole source that lacks a needed field everywhere.

    Raises:
        SourceError: naming the fields found and the option to pass.
    """
    if reason := fields.lacking(present):
        raise SourceError(f"{description}: {reason}")


def _first_given(row: Row, candidates: tuple[str, ...]) -> str | None:
    """First candidate with a value, else the first that is there at all."""
    present = [name for name in candidates if name in row]
    return next((name for name in present if row[name] is not None), next(iter(present), None))


def _id(row: Row, field: str | None, fields: FieldNames, place: Place) -> str:
    if fields.id == ROW_NUMBER:
        return str(place.number)
    if field is None:
        raise ValueError(f"no id; expected one in {' or '.join(fields.id_candidates())}")
    value = row[field]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{_found(field, value)}; an id must be a non-empty text or a whole number")
    if value != printable(value):
        raise ValueError(f"{field} has half a character (a lone surrogate); repair it where the data is made")
    return value


def _id_in(line: bytes, fields: FieldNames, place: Place) -> str | None:
    """Read the id of a line that is no record; "" if it has none, None if nobody can tell."""
    try:
        found = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
        if not isinstance(found, dict):
            return ""
        return _id(found, _first_given(found, fields.id_candidates()), fields, place)
    except (ValueError, RecursionError):
        return None


def _text(row: Row, field: str | None, fields: FieldNames) -> str:
    if field is None:
        raise ValueError(f"no text; expected it in {' or '.join(fields.text_candidates())}")
    value = row[field]
    if not isinstance(value, str):
        raise ValueError(f"{_found(field, value)}; it must be a text")
    return value


def _title(row: Row, field: str | None) -> str:
    value = row[field] if field else None
    if value is None:
        return ""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{_found(str(field), value)}; it must be a text")


def _metadata(row: Row, used: set[str | None]) -> dict[str, JSON]:
    own = {key: value for key, value in row.items() if key not in used}
    nested = own.pop(_METADATA_FIELD, None)
    if isinstance(nested, Mapping):
        own = {**nested, **own}
    elif nested is not None:
        own[_METADATA_FIELD] = nested
    metadata: dict[str, JSON] = {}
    for key, value in own.items():
        try:
            metadata[str(key)] = json_value(value)
        except TypeError:
            # An image or a blob says nothing to a reader of the payload; the text is what is indexed.
            continue
    return metadata


def _found(field: str, value: object) -> str:
    return f"{field} is {type(value).__name__} {value!r:.40}"
