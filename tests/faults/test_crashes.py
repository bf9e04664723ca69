"""A run may end at any call to the store; one good run then leaves what a clean build would leave.

With the commit before the points, or the old points deleted before the commit, these tests fail.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest

from pipelines import ChunkingConfig, Document, RejectedDocument, ingest, open_collection, prune
from pipelines.ledger import Ledger, LedgerEntry
from pipelines.physical import resolve
from pipelines.store import open_store
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder
from tests.pipelines.stores import Crash, WatchedClient, contents

SMALL = ChunkingConfig(max_tokens=12)


def document(identifier: str, *words: str) -> Document:
    text = "\n\n".join(f"{word} has a paragraph of its own with some words." for word in words)
    return Document(identifier, text, f"{identifier}.txt")


BEFORE: list[Document | RejectedDocument] = [
    document("stays", "Alpha", "Beta"),
    document("edited", "One", "Two", "Three", "Four"),
    document("goes", "Gone"),
    document("breaks", "Whole"),
    RejectedDocument("heals", "heals.txt", "h1", "parse", "broken"),
]
AFTER: list[Document | RejectedDocument] = [
    document("new", "Fresh", "Fresh"),
    document("stays", "Alpha", "Beta"),
    document("edited", "One", "Inserted", "Three", "Two"),
    RejectedDocument("breaks", "breaks.txt", "h2", "parse", "broken now"),
    document("heals", "Healed"),
]
LATER: list[Document | RejectedDocument] = [
    document("stays", "Alpha", "Beta"),
    document("edited", "One", "Two", "Three", "Four"),
    document("breaks", "Whole"),
    document("heals", "Healed", "Again"),
]

BACK = BEFORE[:-1]


def run(client: WatchedClient, found: list[Document | RejectedDocument]) -> None:
    ingest(found, client, "notes", FakeEncoder(), chunking=SMALL)


def after_history(*states: list[Document | RejectedDocument]) -> WatchedClient:
    client = WatchedClient()
    for state in states:
        run(client, state)
    return client


def crashed(before: list[Document | RejectedDocument] | None, at: int, *, applied: bool) -> WatchedClient | None:
    """Run into a crash at write number `at`; None when the run has fewer writes."""
    client = WatchedClient()
    if before is not None:
        run(client, before)
    client.crash_at = len(client.writes) + at
    client.applied = applied
    try:
        run(client, AFTER)
    except Crash:
        client.crash_at = None
        return client
    return None


def points_of(client: WatchedClient, identifier: str) -> int:
    with open_store(client) as store:
        physical = resolve(store, "notes")
    if physical is None:
        return 0
    records, _ = client.scroll(physical, limit=1000)
    return sum(
        record.payload is not None and record.payload["metadata"]["document_id"] == identifier for record in records
    )


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied"])
@pytest.mark.parametrize("target", [AFTER, LATER, BACK], ids=["same", "later", "back"])
@pytest.mark.parametrize("before", [None, BEFORE], ids=["empty", "filled"])
def test_run_cut_short_at_any_write_then_one_good_run_equals_a_clean_build(
    before: list[Document | RejectedDocument] | None, target: list[Document | RejectedDocument], applied: bool
) -> None:
    # A form that a document had before it broke stays searchable, which a build of AFTER alone cannot know.
    kept = [BEFORE] if target is AFTER and before is not None else []
    clean = contents(after_history(*kept, target), "notes")
    cuts = 0
    while (client := crashed(before, cuts, applied=applied)) is not None:
        if before is not None:
            assert points_of(client, "stays") == 2, "an unchanged document was missing"
            assert points_of(client, "edited") >= 4, "a changed document was found in neither form"
        run(client, target)
        assert contents(client, "notes") == clean, f"after a crash at write {cuts}"
        writes = len(client.writes)
        run(client, target)
        assert client.writes[writes:] == []
        cuts += 1
    assert cuts >= 7


@pytest.mark.parametrize("target", [AFTER, BACK], ids=["same", "back"])
def test_run_cut_short_while_it_was_mended_is_mended_by_the_next(
    target: list[Document | RejectedDocument],
) -> None:
    kept = [BEFORE] if target is AFTER else []
    clean = contents(after_history(*kept, target), "notes")
    first = 0
    while crashed(BEFORE, first, applied=True) is not None:
        second = 0
        while (client := crashed_twice(target, first, second)) is not None:
            run(client, target)
            assert contents(client, "notes") == clean, f"after crashes at writes {first} and {second}"
            second += 1
        first += 1


def crashed_twice(target: list[Document | RejectedDocument], first: int, second: int) -> WatchedClient | None:
    client = crashed(BEFORE, first, applied=True)
    assert client is not None
    client.crash_at = len(client.writes) + second
    try:
        run(client, target)
    except Crash:
        client.crash_at = None
        return client
    return None


def test_run_cut_short_between_collection_and_alias_is_completed_with_the_same_layers() -> None:
    auto = FakeEncoder(FakeConfig(layers="auto"))
    found = [document(f"d{number}", f"Word{number}") for number in range(30)]
    clean = WatchedClient()
    ingest(found, clean, "notes", auto, chunking=SMALL)
    for cut in range(3):
        client = WatchedClient()
        client.crash_at, client.applied = cut, True
        with pytest.raises(Crash):
            ingest(found, client, "notes", auto, chunking=SMALL)
        client.crash_at = None
        ingest(found, client, "notes", auto, chunking=SMALL)
        assert contents(client, "notes") == contents(clean, "notes")


def ledger_of(client: WatchedClient) -> dict[str, LedgerEntry]:
    with open_store(client) as store:
        physical = resolve(store, "notes")
        assert physical is not None
        return {entry.document_id: entry for entry in Ledger(store, physical).scan(brief=False)}


def test_new_form_that_fails_after_a_part_of_it_was_written_leaves_the_old_form_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offsets and indexes in the payloads are those of the form that is searchable, and the ledger can prove it."""
    monkeypatch.setattr("pipelines.writer._SMALLEST_GROUP", 2)
    client, words = WatchedClient(), ["One", "Two", "Three", "Four"]
    run(client, [document("long", *words)])
    before, entry = contents(client, "notes"), ledger_of(client)["long"]
    poisoned = document("long", *reversed(words), "Fresh", "Fresher", "Freshest", "Poison")
    ingest([poisoned], client, "notes", FakeEncoder(poison="Poison"), chunking=SMALL)
    assert ledger_of(client)["long"].quarantine is not None
    assert contents(client, "notes")["points"] == before["points"]
    assert ledger_of(client)["long"].payload_hash == entry.payload_hash != ""


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied"])
def test_documents_in_flight_that_break_before_the_next_run_keep_a_form_that_the_ledger_vouches_for(
    applied: bool,
) -> None:
    before = [document("edited", "One", "Two", "Three"), document("other", "Alpha")]
    after = [document("edited", "One", "Inserted", "Four"), document("other", "Alpha")]
    broken = [RejectedDocument("edited", "edited.txt", "h3", "parse", "broken now"), document("other", "Alpha")]
    forms = [contents(after_history(form, broken), "notes") for form in (before, after)]
    cut = 0
    while True:
        client = after_history(before)
        client.crash_at, client.applied = len(client.writes) + cut, applied
        try:
            run(client, after)
        except Crash:
            client.crash_at = None
        else:
            break
        run(client, broken)
        assert contents(client, "notes") in forms, f"after a crash at write {cut}"
        cut += 1
    assert cut >= 7


@pytest.mark.parametrize("cut", range(5))
def test_rebuild_into_a_generation_whose_pruning_was_cut_short_equals_a_clean_build(cut: int) -> None:
    """The ledger may outlive its points by a moment; what it said of a document that is broken now was a lie."""
    client, other = after_history(BEFORE), FakeEncoder(FakeConfig(prefix_bias=0.5))
    ingest(BEFORE, client, "notes", other, chunking=SMALL)
    client.crash_at, client.applied = len(client.writes) + cut, True
    with suppress(Crash):
        prune(client, "notes", grace=timedelta(0))
    client.crash_at = None
    ingest(AFTER, client, "notes", FakeEncoder(), chunking=SMALL, delete="all")
    clean = [contents(after_history(*history), "notes") for history in ([AFTER], [BEFORE, AFTER])]
    assert contents(client, "notes") in clean
    assert verify_ok(client)


def verify_ok(client: WatchedClient) -> bool:
    with open_collection(client, "notes", encoder=FakeEncoder()) as collection:
        return collection.verify().ok
