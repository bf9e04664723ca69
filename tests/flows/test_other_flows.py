"""Verification and re-indexing as flows, on real collections."""

from __future__ import annotations

import json

import pytest

import pipelines
from flows import index_corpus, reindex_corpus, verify_collection
from flows import verify as verifying
from pipelines.errors import StoreUnavailableError, TerminalError
from pipelines.physical import resolve
from pipelines.store import open_store
from tests.flows.sessions import artifact, recorded_run, scripted


@pytest.fixture(scope="module")
def made(tmp_path_factory, api, tiny_model_dir):
    """A folder, a store and what a run into it was given."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, text in enumerate(["gzip compresses files", "argparse reads options", "csv writes tables"]):
        (folder / f"{number}.txt").write_text(text)
    store = str(tmp_path_factory.mktemp("store"))
    given = {"source": str(folder), "store": store, "name": "made", "model": str(tiny_model_dir), "layers": (1,)}
    index_corpus(**given)
    return given


def test_reindex_corpus_with_another_encoder_builds_beside_and_swaps(made):
    before = pipelines.status(made["store"], "made")[0]
    report = reindex_corpus(**{**made, "encoder": {"prefix_bias": 2.0}, "options": {"on_change": "refuse"}})
    assert (report.rebuilt, report.replaced, report.chunks_embedded) == (True, before.physical, 3)
    after = pipelines.status(made["store"], "made")[0]
    assert after.encoder["prefix_bias"] == 2.0
    assert after.previous == (before.physical,)
    again = reindex_corpus(source=made["source"], store=made["store"], name="made", prune_days=0)
    assert (again.rebuilt, again.chunks_embedded) == (False, 0), "what is not given stays as it is"
    assert pipelines.status(made["store"], "made")[0].previous == ()
    figures = {row["figure"]: row["value"] for row in json.loads(artifact("prune-made").data)}
    assert before.physical in figures["removed"]


def test_nightly_index_refuses_another_encoder(made):
    """The deployment says `on_change: refuse`: an upgrade must not rebuild a collection at night."""
    with pytest.raises(pipelines.EncoderMismatchError, match="prefix_bias"):
        index_corpus(**{**made, "encoder": {"prefix_bias": 3.0}, "options": {"on_change": "refuse"}})


def test_verify_collection_sound_reports_and_unsound_fails_with_what_to_do(made):
    report = verify_collection(name="made", store=made["store"])
    assert report.ok
    with open_store(made["store"]) as store:
        physical = resolve(store, "made")
        (point, *_), _ = store.client.scroll(physical, limit=1)
        store.client.delete(physical, points_selector=[point.id])
    with pytest.raises(TerminalError, match=r"collection 'made' is not sound: .*kvembed"):
        verify_collection(name="made", store=made["store"])
    figures = {row["figure"]: row["value"] for row in json.loads(artifact("verify-made").data)}
    assert (figures["ok"], figures["missing_points"]) == ("False", 1)
    mended = verify_collection(name="made", store=made["store"], repair=True, source=made["source"])
    assert mended.ok


def test_verify_collection_transient_error_is_tried_again(api, monkeypatch):
    calls = []

    def verify(*_: object, **__: object) -> object:
        calls.append(1)
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr(pipelines, "verify", verify)
    monkeypatch.setattr(verifying.check, "retry_delay_seconds", [0.0, 0.0, 0.0])
    with pytest.raises(StoreUnavailableError):
        verify_collection(name="unheard", store="http://qdrant")
    assert len(calls) == 4
    assert recorded_run("verify-unheard").state.is_failed()


def test_reindex_corpus_rebuilds_whatever_the_options_say(api, monkeypatch):
    run = scripted(monkeypatch)
    reindex_corpus(source="docs", name="forced", store="http://q", options={"on_change": "refuse", "wait": 5})
    allowed = run.opened[0]["options"]
    assert (allowed.on_change, allowed.wait) == ("rebuild", 5)
