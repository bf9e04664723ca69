"""What an edit of a long document costs: the chunks whose text changed, and no other, are embedded again."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from pipelines import Chunk, ChunkingConfig, Document, IngestReport, ingest
from pipelines.chunking import Chunker
from pipelines.parsing import parse
from pipelines.points import Occurrences
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.prose import EDITS, prose
from tests.pipelines.stores import contents

CHUNKING = ChunkingConfig(max_tokens=40)


class VectorWrites(QdrantClient):
    """Notes the points whose vector is written.

    Attributes:
        written: Ids, in order.
        described: Ids of points whose payload alone is written.
    """

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.written: list[str] = []
        self.described: list[str] = []

    def upsert(self, collection_name: str, points: Any, **options: Any) -> Any:
        if not collection_name.endswith(("--ledger", "--control")):
            self.written += [str(point.id) for point in points]
        return super().upsert(collection_name, points, **options)

    def batch_update_points(self, collection_name: str, update_operations: Sequence[Any], **options: Any) -> Any:
        for operation in update_operations:
            assert isinstance(operation, models.OverwritePayloadOperation)
            self.described += [str(point) for point in operation.overwrite_payload.points or []]
        return super().batch_update_points(collection_name, update_operations, **options)


def long_document(text: str) -> Document:
    parsed = parse(text.encode(), ".md")
    return Document("long", parsed.text, "long.md", "A title", headings=parsed.headings, format=parsed.format)


def cut(document: Document) -> dict[str, Chunk]:
    """Return the chunks of a document by the points they are."""
    occurrences = Occurrences()
    chunks = Chunker(CHUNKING, FakeEncoder()).chunks(document)
    return {occurrences.point_id(chunk): chunk for chunk in chunks}


def run(client: QdrantClient, document: Document, encoder: FakeEncoder) -> IngestReport:
    return ingest([document], client, "notes", encoder, chunking=CHUNKING)


@pytest.mark.parametrize(
    ("layout", "edit", "most"),
    [
        ("paragraphs", "word_inserted", 4),
        ("paragraphs", "sentence_inserted", 8),
        ("paragraphs", "paragraph_deleted", 8),
        ("paragraphs", "paragraph_moved", 10),
        ("lines", "sentence_inserted", 8),
        ("headings", "sentence_inserted", 20),
        ("sentences", "sentence_inserted", 20),
        ("sentences", "paragraph_moved", 30),
    ],
)
def test_edit_in_the_middle_embeds_the_chunks_near_it_and_moves_the_rest(layout: str, edit: str, most: int) -> None:
    text = prose(1, 6500, layout)
    before, after = long_document(text), long_document(EDITS[edit](text, Random(7)))
    old, new = cut(before), cut(after)
    assert len(old) >= 200
    client, encoder = VectorWrites(), FakeEncoder()
    run(client, before, encoder)
    encoder.texts.clear()
    client.written.clear()
    report = run(client, after, encoder)

    fresh = [point for point in new if point not in old]
    assert 0 < len(fresh) <= most
    assert sorted(encoder.texts) == sorted(new[point].embedded_text for point in fresh)
    assert client.written == fresh
    assert report.chunks_embedded == report.points_written == len(fresh)
    assert report.chunks_reused == len(new) - len(fresh)

    moved = {point for point in new if point in old and new[point] != old[point]}
    assert len(moved) > 60, "the edit is in the middle"
    assert set(client.described) == moved
    assert report.points_updated == len(moved)
    assert report.points_deleted == len(old.keys() - new.keys())


def test_edited_document_is_stored_as_a_clean_build_would() -> None:
    text = prose(1, 6500, "sentences")
    edited, clean = VectorWrites(), VectorWrites()
    for version in (text, EDITS["sentence_inserted"](text, Random(1)), EDITS["paragraph_moved"](text, Random(2))):
        run(edited, long_document(version), FakeEncoder())
    run(clean, long_document(version), FakeEncoder())
    assert contents(edited, "notes") == contents(clean, "notes")


def test_two_sections_that_change_places_embed_nothing() -> None:
    sections = [f"## Part {number}\n\n{prose(number, 500, 'sentences')}\n\n" for number in range(12)]
    before = long_document("".join(sections))
    sections[4], sections[7] = sections[7], sections[4]
    after = long_document("".join(sections))
    assert len(cut(before)) >= 200
    client, encoder = VectorWrites(), FakeEncoder()
    run(client, before, encoder)
    encoder.texts.clear()
    client.written.clear()
    report = run(client, after, encoder)
    assert (encoder.texts, client.written) == ([], [])
    assert report.points_updated == len(client.described) > 60
    assert (report.documents_changed, report.points_deleted) == (1, 0)


def test_document_that_only_changed_its_metadata_embeds_nothing() -> None:
    text = prose(1, 2000)
    client, encoder = VectorWrites(), FakeEncoder()
    run(client, Document("long", text, "long.md"), encoder)
    encoder.texts.clear()
    client.written.clear()
    report = run(client, Document("long", text, "long.md", metadata={"year": 1999}), encoder)
    assert (encoder.texts, client.written) == ([], [])
    assert report.points_updated == report.chunks_reused > 60
