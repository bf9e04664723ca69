"""The same calls against a served Qdrant: `docker compose up --detach --wait`, then `make test ARGS="-m qdrant"`."""

from __future__ import annotations

import os
import uuid

import pytest

from pipelines import Document, ingest, open_collection, status
from pipelines.store import open_store

pytestmark = [
    pytest.mark.qdrant,
    # The compose file binds the server to the loopback interface, where the key travels in the clear.
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning"),
]

TEXTS = {"gzip": "compresses files", "argparse": "reads command line options", "csv": "writes tables"}


@pytest.fixture
def server():
    url = os.environ.get("KVEMBED_TEST_QDRANT_URL")
    if not url:
        pytest.fail("set KVEMBED_TEST_QDRANT_URL to the server that these tests may write to")
    return url


@pytest.fixture
def name(server):
    """A collection name of this test alone; whatever stands behind it is removed afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    with open_store(server) as store:
        for collection in store.client.get_collections().collections:
            if collection.name.startswith(name):
                store.client.delete_collection(collection.name)


def test_ingest_into_server_is_found_and_a_second_run_writes_nothing(server, name, tiny_encoder):
    documents = [Document(id=key, text=text, source=key) for key, text in TEXTS.items()]
    first = ingest(documents, server, name, tiny_encoder)
    assert (first.documents_added, first.documents_quarantined) == (3, 0)
    second = ingest(documents, server, name, tiny_encoder)
    assert (second.documents_unchanged, second.chunks_embedded, second.points_written) == (3, 0, 0)
    with open_collection(server, name, encoder=tiny_encoder) as collection:
        assert {hit.document_id for hit in collection.search("files", limit=3)} == set(TEXTS)
        assert len(collection.retriever(k=2).invoke("files")) == 2
    (found,) = status(server, name)
    assert found.collection == name


def test_ingest_into_server_without_a_document_deletes_it(server, name, tiny_encoder):
    documents = [Document(id=key, text=text, source=key) for key, text in TEXTS.items()]
    ingest(documents, server, name, tiny_encoder)
    report = ingest(documents[:2], server, name, tiny_encoder, delete="all")
    assert report.documents_deleted == 1
    with open_collection(server, name, encoder=tiny_encoder) as collection:
        assert {hit.document_id for hit in collection.search("tables", limit=3)} == {"gzip", "argparse"}
