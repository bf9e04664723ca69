"""Records refuse what a later stage, or the store, could not hold."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.documents import Chunk, Document, EncodedChunk, Heading, Point, RejectedDocument, printable

CHUNK = Chunk("a", 0, "text", 2, 6, (), "text")
VECTOR = np.ones(3, dtype=np.float32)


def document(**fields):
    return Document(**{"id": "a", "text": "t", "source": "s", **fields})


@pytest.mark.parametrize("document_id", ["x" * 10_000, "a\nb", "a/b", " ", "0", "é", "🙂"])
def test_document_id_any_text_is_kept_exactly(document_id):
    assert document(id=document_id).id == document_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": ""}, "document id is empty"),
        ({"id": 7}, "document id is int 7; it must be a str"),
        ({"id": "\ud800"}, "lone surrogate U\\+D800 at character 0"),
        ({"text": "ab\udfff"}, "document text has the lone surrogate U\\+DFFF at character 2"),
        ({"text": None}, "document text is NoneType None; it must be a str"),
        ({"title": "\ud800"}, "document title has the lone surrogate"),
        ({"format": "html"}, "format is 'html'; legal are plain, markdown"),
        ({"metadata": {"n": float("nan")}}, "cannot be written as JSON.*use text, finite numbers"),
        ({"metadata": {"n": b"x"}}, "cannot be written as JSON"),
        ({"metadata": {"n": [2**63]}}, "an integer of 65 bits does not fit the 64 of Qdrant; write it as text"),
        ({"metadata": {"n": -(10**400)}}, "cannot be written as JSON"),
        ({"metadata": {1: "x"}}, "key 1 is no text"),
        ({"metadata": {"\ud800": "x"}}, "cannot be written as JSON"),
    ],
)
def test_document_illegal_field_is_refused_with_its_name(fields, message):
    with pytest.raises(ValueError, match=message):
        document(**fields)


def test_document_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        document().text = "other"


@pytest.mark.parametrize(
    "change",
    [
        {"text": "u"},
        {"title": "t"},
        {"source": "s2"},
        {"metadata": {"k": 1}},
        {"metadata": {"k": "1"}},
        {"headings": (Heading(0, 1, "t"),)},
        {"format": "markdown"},
        {"text": "s", "source": "t"},
        {"text": "e\u0301"},
        {"text": "\u00e9"},
    ],
)
def test_content_hash_any_change_of_content_changes_it(change):
    assert document(**change).content_hash != document().content_hash


def test_content_hash_unicode_forms_are_different_documents():
    assert document(text="e\u0301").content_hash != document(text="\u00e9").content_hash


def test_content_hash_ignores_id_key_order_and_mapping_type():
    first = document(metadata={"a": 1, "b": {"c": [1, 2]}})
    second = document(id="other", metadata=MappingProxyType({"b": MappingProxyType({"c": (1, 2)}), "a": 1}))
    assert first.content_hash == second.content_hash


@given(
    st.tuples(*[st.text(alphabet='ab"],[', max_size=4)] * 3), st.tuples(*[st.text(alphabet='ab"],[', max_size=4)] * 3)
)
def test_content_hash_equal_only_for_equal_contents(first, second):
    hashes = [document(text=text, title=title, source=source).content_hash for text, title, source in (first, second)]
    assert (hashes[0] == hashes[1]) == (first == second)


def test_chunk_span_that_is_not_its_text_is_refused():
    with pytest.raises(ValueError, match=r"chunk 0 spans 2..7 with 4 characters"):
        dataclasses.replace(CHUNK, end=7)


def test_chunk_content_hash_follows_embedded_text_only():
    moved = dataclasses.replace(CHUNK, index=9, start=12, end=16)
    assert moved.content_hash == CHUNK.content_hash
    assert dataclasses.replace(CHUNK, embedded_text="title\ntext").content_hash != CHUNK.content_hash


@pytest.mark.parametrize(
    "vector",
    [np.ones(3), np.ones((1, 3), dtype=np.float32), np.array([1, np.nan], dtype=np.float32)],
    ids=["float64", "two-dimensional", "nan"],
)
def test_vector_of_wrong_kind_is_refused(vector):
    with pytest.raises(ValueError, match="one-dimensional float32 with finite numbers"):
        EncodedChunk(CHUNK, vector, 5)
    with pytest.raises(ValueError, match="one-dimensional float32 with finite numbers"):
        Point("6f2c1c1e-6e0b-5f57-9b59-0f5b6d4f4b11", vector, {})


def test_encoded_chunk_negative_count_is_refused():
    with pytest.raises(ValueError, match="-1 truncated; both are counts"):
        EncodedChunk(CHUNK, VECTOR, 5, -1)


def test_point_id_that_is_no_canonical_uuid_is_refused():
    with pytest.raises(ValueError, match="must be a UUID in canonical form"):
        Point("6F2C1C1E-6E0B-5F57-9B59-0F5B6D4F4B11", VECTOR, {})


def test_rejected_document_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="stage is 'luck'; legal are read, parse"):
        RejectedDocument("a", "s", "0", "luck", "reason")


def test_heading_level_zero_is_refused():
    with pytest.raises(ValueError, match="level 0; start counts from 0 and level from 1"):
        Heading(0, 0, "t")


def test_printable_half_characters_are_spelled_out():
    assert printable("a\ud800é") == "a\\ud800é"
