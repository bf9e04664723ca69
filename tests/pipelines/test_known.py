"""The short memory of a ledger says "unchanged" only of what is, and tells every id apart."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines import Document, ingest
from pipelines.known import KnownDocuments
from pipelines.ledger import LedgerEntry, Quarantine
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.stores import WatchedClient, contents

IDS = st.lists(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()), unique=True, max_size=40)


def entry(document: Document) -> LedgerEntry:
    return LedgerEntry(document.id, document.source, document.content_hash, points=3)


@given(known=IDS, others=IDS)
def test_known_documents_tell_every_id_apart(known: list[str], others: list[str]) -> None:
    documents = [Document(document_id, f"text of {document_id}", "source") for document_id in known]
    found = KnownDocuments(entry(document) for document in documents)
    assert (found.committed, found.points) == (len(known), 3 * len(known))
    assert all(found.is_unchanged(document) for document in documents)
    assert not any(found.is_unchanged(replace(document, text="other")) for document in documents)
    assert found.misses_any() == bool(known)
    ids = list(dict.fromkeys([*others, *known]))
    assert not any(found.has(document_id) for document_id in ids)
    assert all(found.note(document_id) for document_id in ids)
    assert not any(found.note(document_id) for document_id in ids)
    assert all(found.has(document_id) for document_id in ids)
    assert found.seen == len(ids)
    assert not found.misses_any()


def test_known_documents_vouch_for_nothing_that_needs_a_look() -> None:
    document = Document("a", "text", "a.txt")
    for troubled in (
        replace(entry(document), settled=False),
        replace(entry(document), content_hash="unknown", settled=False),
        replace(entry(document), quarantine=Quarantine("h", "parse", "broken", "p")),
        replace(entry(document), content_hash=""),
    ):
        assert not KnownDocuments([troubled]).is_unchanged(document)


def test_ingest_second_document_with_an_id_does_not_hide_a_change_of_the_first() -> None:
    """Both come in one batch; that the second is as stored says nothing of the first."""
    old, new = Document("a", "old text", "a.txt"), Document("a", "new text", "a.txt")
    client, clean = WatchedClient(), WatchedClient()
    ingest([old], client, "notes", FakeEncoder())
    report = ingest([new, old], client, "notes", FakeEncoder())
    assert (report.documents_changed, report.documents_quarantined) == (1, 1)
    ingest([new], clean, "notes", FakeEncoder())
    assert contents(client, "notes")["points"] == contents(clean, "notes")["points"]
