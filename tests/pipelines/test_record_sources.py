"""JSONL and Parquet: one bad record is rejected by number, a wrong file is one clear error."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json
import lzma
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipelines.documents import Document, RejectedDocument
from pipelines.errors import SourceError
from pipelines.sources import open_source


def jsonl(path, *records):
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def table(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corpus.jsonl"


def read(source, **fields):
    return list(open_source(source, **fields).documents())


def test_jsonl_default_fields_and_metadata(path):
    jsonl(
        path,
        {"_id": "a", "title": " The\n A ", "text": "alpha", "year": 1999, "metadata": {"year": 1, "by": "x"}},
        {"id": 12, "document_id": "unused", "page_content": "beta", "tags": ["x", None]},
    )
    first, second = read(path)
    assert (first.id, first.title, first.text, first.source) == ("a", "The A", "alpha", "corpus.jsonl")
    assert first.metadata == {"by": "x", "year": 1999}
    assert (second.id, second.title, second.text) == ("12", "", "beta")
    assert second.metadata == {"document_id": "unused", "tags": ["x", None]}


def test_jsonl_same_record_in_another_place_is_the_same_document(path):
    jsonl(path, {"id": "a", "text": "x"}, {"id": "b", "text": "y"})
    before = read(path)[1].content_hash
    jsonl(path, {"id": "b", "text": "y"})
    assert read(path)[0].content_hash == before


def test_jsonl_named_fields_are_used_and_defaults_become_metadata(path):
    jsonl(path, {"id": 1, "key": "k", "text": "unused", "summary": "s", "name": "n", "title": "t"})
    (document,) = read(path, id_field="key", text_field="summary", title_field="name")
    assert (document.id, document.text, document.title) == ("k", "s", "n")
    assert document.metadata == {"id": 1, "text": "unused", "title": "t"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 2: not JSON (Expecting property name"),
        (b'"text"', "line 2: a JSON str, not an object"),
        (b'{"id": "x", "text": "\xe9"}', "line 2: not UTF-8 (byte 0xe9"),
        (b'{"id": "x"}', "line 2: no text; expected it in text or content"),
        (b'{"text": "x"}', "line 2: no id; expected one in id or _id"),
        (b'{"id": "x", "text": 7}', "line 2: text is int 7; it must be a text"),
        (b'{"id": "x", "text": null}', "line 2: text is NoneType None; it must be a text"),
        (b'{"id": "", "text": "x"}', "line 2: id is str ''; an id must be a non-empty text"),
        (b'{"id": 1.5, "text": "x"}', "line 2: id is float 1.5; an id must be"),
        (b'{"id": true, "text": "x"}', "line 2: id is bool True; an id must be"),
        (b'{"id": "x", "text": "x", "title": []}', "line 2: title is list []; it must be a text"),
        (b'{"id": "x", "text": "a\\ud800"}', "line 2: document text has the lone surrogate U+D800 at character 1"),
        (b'{"id": "a\\ud800", "text": "x"}', "line 2: id has half a character"),
        (b'{"id": "x", "text": "x", "m": "\\ud800"}', "line 2: metadata cannot be written as JSON"),
        (b"[" * 100_000, "line 2: not usable JSON"),
        (b'{"id": 1' + b"0" * 5000 + b', "text": "x"}', "line 2: not usable JSON"),
    ],
)
def test_jsonl_bad_line_is_rejected_with_number_and_the_rest_goes_on(path, line, reason):
    jsonl(path, {"id": "a", "text": "x"}, line, {"id": "z", "text": "y"})
    first, bad, last = read(path)
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert isinstance(bad, RejectedDocument)
    assert bad.reason.startswith(reason)
    assert bad.stage == "read"
    assert bad.id in ("x", "corpus.jsonl line 2")


@pytest.mark.parametrize(
    ("line", "document_id"),
    [
        (b'{"id": "x", "text": "caf\xe9"}', "x"),
        (b'{"text": "\xff", "id": 12}', "12"),
        (b'\xef\xbb\xbf{"id": "x", "text": "caf\xe9"}', "x"),
        (b'[1, "caf\xc3\xa9"]', "corpus.jsonl line 1"),
        (b'{"text": "no id"}', "corpus.jsonl line 1"),
        (b'{"id": 1.5, "text": "x"}', "corpus.jsonl line 1"),
    ],
)
def test_jsonl_bad_line_that_says_its_id_is_rejected_under_it(path, line, document_id):
    jsonl(path, line, {"id": "z", "text": "y"})
    bad, _ = read(path)
    assert (bad.id, bad.anonymous) == (document_id, False)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "x", "text": "cut o',
        b'{"id": "caf\xe9", "text": "x"}',
        b'{"id": "x", "text": "\xe9',
        b"\x00\x00\x00\x00",
        b'{"id": 1' + b"0" * 5000 + b', "text": "x"}',
    ],
)
def test_jsonl_bad_line_that_may_be_any_document_is_anonymous(path, line):
    jsonl(path, {"id": "z", "text": "y"}, line)
    _, bad = read(path)
    assert (bad.id, bad.anonymous) == ("corpus.jsonl line 2", True)
    _, numbered = read(path, id_field="#")
    assert (numbered.id, numbered.anonymous) == ("1", False)


def test_jsonl_blank_lines_byte_order_mark_and_crlf_are_no_records(path):
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "text": "x"}\r\n\r\n  \n{"id": 2, "text": "y"}')
    assert [document.id for document in read(path)] == ["1", "2"]


def test_jsonl_line_separators_inside_a_text_do_not_end_the_line(path):
    path.write_bytes('{"id": 1, "text": "a\u2028b\u0085c"}\n'.encode())
    assert read(path)[0].text == "a\u2028b\u0085c"


def test_jsonl_ids_are_kept_exactly(path):
    ids = ["x" * 10_000, "a\nb/c", " ", "e\u0301", "\u00e9"]
    jsonl(path, *[{"id": document_id, "text": "x"} for document_id in ids])
    assert [document.id for document in read(path)] == ids


def test_jsonl_values_json_cannot_hold_are_kept_as_near_as_possible(path):
    jsonl(path, b'{"id": 1, "text": "x", "big": 99999999999999999999, "nan": NaN, "inf": [-Infinity]}')
    assert read(path)[0].metadata == {"big": "99999999999999999999", "nan": None, "inf": [None]}


def test_jsonl_text_field_in_no_line_is_one_error_naming_fields_and_option(path):
    jsonl(path, {"id": 1, "summary": "x"}, {"id": 2, "summary": "y", "other": 1})
    with pytest.raises(
        SourceError,
        match=r"no record has a field for the text \(looked for 'text', .*\); "
        r"fields found: 'id', 'other', 'summary'; name the text field with --text-field",
    ):
        read(path)
    with pytest.raises(SourceError, match=r"the text \(looked for 'body'\)"):
        read(path, text_field="body")


def test_jsonl_id_field_in_no_line_is_an_error_and_hash_numbers_the_records(path):
    jsonl(path, {"text": "x", "doc": "k"}, {"text": "y"})
    with pytest.raises(SourceError, match=r"field for the id .*'doc', 'text'.*--id-field '#'"):
        read(path)
    assert [document.id for document in read(path, id_field="#")] == ["0", "1"]


def test_jsonl_named_title_in_no_line_is_an_error(path):
    jsonl(path, {"id": 1, "text": "x"})
    with pytest.raises(SourceError, match=r"field for the title .*--title-field"):
        read(path, title_field="name")


def test_jsonl_field_that_only_a_late_line_has_is_enough(path):
    jsonl(path, {"id": 1}, {"id": 2}, {"id": 3, "text": "x"})
    kinds = [type(item) for item in read(path)]
    assert kinds == [RejectedDocument, RejectedDocument, Document]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no records"),
        (b"\n \n", "no records"),
        (b'[\n{"id": 1}\n]\n', "field for the text"),
        (b"[1, 2]\n", r"no line is a JSON object \(first: a JSON list"),
        ("id\ttext\n".encode("utf-16"), "no line is a JSON object"),
    ],
)
def test_jsonl_without_any_record_is_an_error(path, content, message):
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_jsonl_compressed_is_read_and_cut_off_is_an_error(tmp_path, suffix, compress):
    path = tmp_path / f"corpus.jsonl{suffix}"
    content = b"".join(b'{"id": %d, "text": "%x"}\n' % (number, number**9) for number in range(5000))
    path.write_bytes(compress(content))
    assert len(read(path)) == 5000
    path.write_bytes(compress(content)[:-2000])
    with pytest.raises(SourceError, match=r"cannot be read to its end: .*nothing is deleted"):
        read(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("change", ["longer", "emptied", "replaced", "gone"])
def test_file_of_records_that_changes_while_it_is_read_is_an_error(tmp_path, suffix, change):
    """One that is written anew has fewer records for a while, and they would count as deleted."""
    path = tmp_path / f"corpus{suffix}"
    if suffix == ".jsonl":
        jsonl(path, *[{"id": number, "text": "x" * 1000} for number in range(1000)])
    else:
        table(path, id=list(range(1000)), text=["x" * 1000] * 1000)
    documents = open_source(path).documents()
    next(documents)
    if change == "longer":
        with path.open("ab") as file:
            file.write(b"\n")
    elif change == "emptied":
        path.write_bytes(b"")
    elif change == "replaced":
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        copy.rename(path)
    else:
        path.unlink()
    with pytest.raises(SourceError):
        list(documents)


@pytest.mark.alone
def test_jsonl_memory_does_not_grow_with_the_file(path):
    with path.open("wb") as file:
        for number in range(5_000):
            file.write(b'{"id": %d, "text": "%s"}\n' % (number, b"x" * 2_000))
    tracemalloc.start()
    count = sum(1 for _ in open_source(path).documents())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 2_000_000, "a tenth of the file's 10 MB would already be a leak"


def test_parquet_rows_become_documents(tmp_path):
    path = table(
        tmp_path / "corpus.parquet",
        id=[7, 8],
        text=["x", "y"],
        title=["T", None],
        day=[datetime.date(2026, 1, 2), None],
        price=[decimal.Decimal("1.50"), None],
        blob=[b"\x00", b"\x01"],
        metadata=[{"lang": "en"}, {"lang": "de"}],
    )
    first, second = read(path)
    assert (first.id, first.text, first.title, first.source) == ("7", "x", "T", "corpus.parquet")
    assert first.metadata == {"lang": "en", "day": "2026-01-02", "price": "1.50"}
    assert (second.title, second.metadata["day"]) == ("", None)


def test_parquet_bad_row_is_rejected_with_number_over_batches(tmp_path):
    texts = [None if number == 700 else f"t{number}" for number in range(1000)]
    items = read(table(tmp_path / "a.parquet", id=list(range(1000)), text=texts))
    assert len(items) == 1000
    (rejected,) = [item for item in items if isinstance(item, RejectedDocument)]
    assert (rejected.id, rejected.reason) == ("700", "row 700: text is NoneType None; it must be a text")
    assert items[999].id == "999"


def test_parquet_wrong_columns_no_rows_and_damage_are_errors(tmp_path):
    with pytest.raises(SourceError, match=r"field for the text .*found: 'id', 'summary'.*--text-field"):
        read(table(tmp_path / "a.parquet", id=[1], summary=["x"]))
    with pytest.raises(SourceError, match=r"nothing to index in .*: no rows"):
        read(table(tmp_path / "b.parquet", id=pa.array([], pa.string()), text=pa.array([], pa.string())))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        read(tmp_path / "c.parquet")
