"""Keys: from a Secret block of Prefect where there is one, else from the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from pipelines.settings import provided_key

BLOCK = "kvembed-qdrant-api-key"
"""Name of the Secret block; without it `KVEMBED_QDRANT_API_KEY` counts."""


@contextmanager
def store_key() -> Iterator[None]:
    """Let this process, and those it starts meanwhile, open the store with the key of the block, if there is one."""
    with provided_key(stored_key()):
        yield


def stored_key() -> str | None:
    """Return the key of the block; None where there is no block."""
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(BLOCK, Secret.get_block_type_slug())
        except ObjectNotFound:
            return None
    # Secret.get() would read a key of digits as JSON, and give back another one: 12e3 is 12000.0 to it.
    return str(document.data["value"])
