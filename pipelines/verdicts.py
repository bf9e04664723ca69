"""What an inspection found, in sentences, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.collection import Collection
    from pipelines.inspection import Findings

_NAMED = 20


def problems_of(collection: Collection, found: Findings) -> list[str]:
    """Say what is wrong, one sentence each."""
    return [*_of_the_encoder(found), *_of_documents(found), *_of_points(collection, found)]


def remedies_for(collection: Collection, found: Findings, *, repaired: bool) -> list[str]:
    """Name the commands and calls that mend what was found.

    Args:
        collection: Where it was found.
        found: What is wrong.
        repaired: A repair has done its part already.
    """
    name = quote(collection.name)
    if not found.trusted:
        return [f"kvembed index SOURCE -c {quote(collection.name + '-new')}"]
    remedies = []
    if found.due:
        remedies.append(f"kvembed index SOURCE -c {name}" if repaired else f"{_repair(name)} --source SOURCE")
    elif not found.clean and not repaired:
        remedies.append(_repair(name))
    if found.strays and repaired:
        shown = repr(found.strays[:_NAMED]) if len(found.strays) <= _NAMED else "IDS"
        remedies.append(f"client.delete({collection.physical!r}, points_selector={shown})")
    return remedies


def _repair(name: str) -> str:
    return f"kvembed verify {name} --repair"


def _of_the_encoder(found: Findings) -> Iterator[str]:
    yield from found.manifest
    if found.difference <= found.tolerance:
        return
    sentence = (
        f"the encoder computes other vectors than when the collection was filled: canaries differ by "
        f"{found.difference:.2g}, where {found.tolerance:.2g} is rounding"
    )
    if found.checked and not found.vectors:
        sentence = (
            f"the canaries in the manifest were altered: they differ from new ones by {found.difference:.2g}, where "
            f"{found.tolerance:.2g} is rounding, and all {found.checked} vectors that were checked agree"
        )
    elif found.checked:
        sentence += f", and so do {len(found.vectors)} of {found.checked} vectors that were checked"
    yield sentence


def _of_documents(found: Findings) -> Iterator[str]:
    if found.ledger_gone:
        yield "the ledger is gone; a repair makes one from the points, and the next run over the source completes it"
    if found.missing:
        yield f"{found.missing} points that the ledger names are missing, first in {found.lacking[0]!r}; index again"
    if found.altered:
        yield (
            f"{len(found.altered)} documents do not carry the payloads that were written, first "
            f"{found.altered[0]!r}; a repair marks them, and the next run over their source writes them again"
        )
    if found.unsettled:
        yield (
            f"{len(found.unsettled)} documents are marked to be written again, first {found.unsettled[0]!r}; "
            "index their source"
        )


def _of_points(collection: Collection, found: Findings) -> Iterator[str]:
    if found.vectors and found.trusted:
        yield (
            f"{len(found.vectors)} of {found.checked} vectors that were checked are not those of their text, first "
            f"of point {found.vectors[0].point_id}; a repair embeds them again"
        )
    if found.strays:
        yield (
            f"{len(found.strays)} points belong to no form of a document that the ledger knows, first "
            f"{found.strays[0]}; searches find them; a repair deletes those that kvembed made; others, if nobody put "
            "them there on purpose, delete by id with the Qdrant client: "
            f"client.delete({collection.physical!r}, points_selector=IDS)"
        )
    if found.in_flight:
        yield f"the last run ended while it wrote {found.in_flight} documents; index again"
