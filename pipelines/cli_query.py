"""What `search` and `verify` do before they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.cli_encoder import prepare_models

if TYPE_CHECKING:
    from pipelines.console import Terminal
    from pipelines.report import SearchHit
    from pipelines.verification import VerifyReport


def search_collection(
    name: str, query: str, limit: int, store: str | None, model: str | None, device: str | None, terminal: Terminal
) -> list[SearchHit]:
    """Open a collection and search it."""
    from pipelines import open_collection

    with terminal.waiting(f"opening {name}"):
        prepare_models(device)
        with open_collection(store, name, model=model, device=device) as opened:
            return opened.search(query, limit)


def verify_collection(name: str, store: str | None, model: str | None, terminal: Terminal) -> VerifyReport:
    """Check a collection."""
    from pipelines import verify

    with terminal.waiting(f"checking {name}"):
        prepare_models(None)
        return verify(store, name, model=model)
