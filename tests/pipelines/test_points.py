"""Point ids decide what is written twice and what is lost: equal only for the same chunk of the same document."""

from __future__ import annotations

import uuid

import pytest

from pipelines.documents import Chunk, Document
from pipelines.points import Occurrences, ledger_id, payload, payload_digest, point_id


def chunk(text: str, *, document_id: str = "a", index: int = 0, start: int = 0) -> Chunk:
    return Chunk(document_id, index, text, start, start + len(text), ("Part",), f"Title\n{text}")


def test_point_id_same_chunk_is_the_same_uuid() -> None:
    found = point_id("folder/a.txt", "ff", 0)
    assert found == point_id("folder/a.txt", "ff", 0)
    assert str(uuid.UUID(found)) == found
    assert uuid.UUID(found).version == 5


def test_point_id_separators_in_ids_do_not_collide() -> None:
    pairs = [("a", "b/c"), ("a/b", "c"), ("a\n", "b"), ("a", "\nb"), ('a","b', "c"), ("a", 'b","c')]
    pairs += [("\u00e9", "c"), ("e\u0301", "c")]  # one letter in two Unicode forms: two ids
    assert len({point_id(document_id, content_hash, 0) for document_id, content_hash in pairs}) == len(pairs)
    assert len({ledger_id(document_id) for document_id, _ in pairs}) == len({pair[0] for pair in pairs})


def test_point_id_of_ten_kilobytes_is_as_short_as_any() -> None:
    assert len(point_id("x" * 10_000, "ff", 0)) == 36


def test_occurrences_moved_chunk_keeps_its_id_and_repeated_chunks_differ() -> None:
    before, after = Occurrences(), Occurrences()
    first = before.point_id(chunk("same", index=0))
    after.point_id(chunk("new in front", index=0))
    assert after.point_id(chunk("same", index=1, start=40)) == first
    assert after.point_id(chunk("same", index=2, start=80)) != first


def test_payload_reads_as_langchain_expects() -> None:
    document = Document("a", "the text", "a.txt", "Title", {"year": 1970})
    found = payload(document, chunk("the text"))
    assert found["page_content"] == "the text"
    assert found["metadata"] == {
        "year": 1970,
        "document_id": "a",
        "title": "Title",
        "source": "a.txt",
        "chunk_index": 0,
        "start": 0,
        "end": 8,
        "heading_path": ["Part"],
        "content_hash": chunk("the text").content_hash,
    }


def test_payload_metadata_with_our_keys_is_kept_under_another_name() -> None:
    document = Document("a", "the text", "a.txt", metadata={"title": "theirs", "meta_title": "also", "_id": 3})
    metadata = payload(document, chunk("the text"), truncated_tokens=7)["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["title"] == ""
    assert metadata["meta_title"] == "also"
    assert metadata["meta_meta_title"] == "theirs"
    assert metadata["meta__id"] == 3
    assert metadata["truncated_tokens"] == 7


def test_payload_digest_is_the_same_for_what_a_store_may_hand_back():
    given = {"page_content": "text", "metadata": {"pages": 1, "share": 0.1, "tags": ["a", "b"], "none": None}}
    returned = {
        "metadata": {"tags": ("a", "b"), "share": 0.1 + 1e-17, "pages": 1.0, "none": None},
        "page_content": "text",
    }
    assert payload_digest(given) == payload_digest(returned)


@pytest.mark.parametrize(
    "other",
    [
        {"page_content": "Text", "metadata": {"pages": 1}},
        {"page_content": "text", "metadata": {"pages": 2}},
        {"page_content": "text", "metadata": {"pages": True}},
        {"page_content": "text", "metadata": {}},
    ],
)
def test_payload_digest_tells_altered_payloads(other):
    assert payload_digest({"page_content": "text", "metadata": {"pages": 1}}) != payload_digest(other)
