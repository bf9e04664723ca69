"""What is left of a run that ended out of order, and the keys that runs and hooks use."""

from __future__ import annotations

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client

from flows import hooks, index_corpus, reindex_corpus, run_index, verify_collection
from flows.secrets import BLOCK, store_key, stored_key
from pipelines.errors import SourceError
from pipelines.settings import load_settings
from tests.flows.sessions import scripted

FLOWS = [index_corpus, reindex_corpus, verify_collection]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_flow_releases_its_lease_however_it_ends(flow):
    for registered in (flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks):
        assert hooks.release_lease in registered


def test_failed_run_calls_the_hook_with_its_store_and_name(api, monkeypatch):
    released = []
    monkeypatch.setattr(hooks, "release_left_over", lambda *given: released.append(given))
    scripted(monkeypatch, plan=[SourceError("nothing there")])
    with pytest.raises(SourceError):
        run_index("docs", "http://qdrant", "left", "kvembed/demo")
    assert released == [("http://qdrant", "left")]


@pytest.fixture
def block(api):
    """Save Secret blocks, and take them away again."""

    def save(value: str) -> None:
        Secret(value=value).save(BLOCK, overwrite=True)

    yield save
    with get_client(sync_client=True) as client:
        client.delete_block_document(client.read_block_document_by_name(BLOCK, "secret").id)


def key():
    found = load_settings().qdrant_api_key
    return None if found is None else found.get_secret_value()


@pytest.mark.parametrize("value", ["s3cret", "12e34", "0123"])
def test_store_key_of_a_block_wins_over_the_environment_and_is_read_as_it_is(block, monkeypatch, value):
    """Prefect's `Secret.get` reads a key as JSON where it can: 12e34 would become another one."""
    block(value)
    monkeypatch.setenv("KVEMBED_QDRANT_API_KEY", "environment")
    with store_key():
        assert key() == value
    assert key() == "environment"


def test_store_key_without_a_block_is_that_of_the_environment(api, monkeypatch):
    monkeypatch.setenv("KVEMBED_QDRANT_API_KEY", "environment")
    assert stored_key() is None
    with store_key():
        assert key() == "environment"


def test_run_has_the_key_of_the_block_and_records_it_nowhere(block, monkeypatch):
    block("hush-hush")
    seen = []
    run = scripted(monkeypatch)
    monkeypatch.setattr("flows.index.open_encoder", lambda *_, **__: seen.append(key()))
    run_index("docs", "http://qdrant", "keyed", "kvembed/demo")
    assert seen == ["hush-hush"]
    assert "hush-hush" not in repr(run.opened)
