"""Names people use, and the physical collections behind them.

A name is an alias of `NAME--KEY-GENERATION`, where KEY hashes what the points depend on: encoder, chunking and
schema. The documents' ledger is the collection of that name with `--ledger` behind it; `NAME--control` says who
writes and which generations there are.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from pipelines.errors import InvalidCollectionNameError

if TYPE_CHECKING:
    from pipelines.store import Store

_LEDGER = "--ledger"
CONTROL = "--control"
"""Ends the name of a collection that says who writes to a name."""
_PHYSICAL = re.compile(r"(?P<name>.+)--(?P<key>[0-9a-f]{12})-(?P<generation>[0-9]+)")
_FORBIDDEN = frozenset('<>:"/\\|?*')
_LONGEST = 200  # bytes; Qdrant and file systems allow 255, and the suffixes need the rest


def check_name(name: str) -> None:
    """Refuse a collection name before the network does.

    Raises:
        InvalidCollectionNameError: naming what is wrong with it.
    """
    if not name:
        raise InvalidCollectionNameError(name, "it is empty")
    if name in (".", ".."):
        raise InvalidCollectionNameError(name, "it is a folder's name for itself or its parent")
    if name != name.strip() or name.endswith("."):
        raise InvalidCollectionNameError(name, "it begins or ends with white space, or ends with a dot")
    bad = sorted({character for character in name if character in _FORBIDDEN or not character.isprintable()})
    if bad:
        raise InvalidCollectionNameError(name, f"it contains {', '.join(map(repr, bad))}")
    if len(name.encode("utf-8")) > _LONGEST:
        raise InvalidCollectionNameError(name, f"it is longer than {_LONGEST} bytes")
    if name.endswith((_LEDGER, CONTROL)) or _PHYSICAL.fullmatch(name):
        raise InvalidCollectionNameError(name, "it looks like a name that kvembed gives to its own collections")


def physical_name(name: str, pipeline: str, generation: int = 1) -> str:
    """Name the collection that holds the points of `name`.

    Args:
        name: The alias.
        pipeline: Hash of everything that the points depend on.
        generation: Rises when the same pipeline builds anew beside the old.
    """
    key = hashlib.sha256(pipeline.encode("ascii")).hexdigest()[:12]
    return f"{name}--{key}-{generation}"


def ledger_name(physical: str) -> str:
    """Name the collection that holds the ledger of a physical collection."""
    return f"{physical}{_LEDGER}"


def control_name(name: str) -> str:
    """Name the collection that says who writes to a name, and which generations it has."""
    return f"{name}{CONTROL}"


def generations(store: Store, name: str) -> list[str]:
    """Return the physical collections that were made for a name, ledgers without their points included."""
    found = {other.removesuffix(_LEDGER) for other in collections(store)}
    matches = ((other, _PHYSICAL.fullmatch(other)) for other in found)
    return sorted(other for other, match in matches if match is not None and match["name"] == name)


def resolve(store: Store, name: str) -> str | None:
    """Return the collection an alias points to, or None."""
    aliases = store.call(store.client.get_aliases).aliases
    return next((alias.collection_name for alias in aliases if alias.alias_name == name), None)


def aliases(store: Store) -> dict[str, str]:
    """Return every alias of the store and the collection it points to, by name."""
    found = store.call(store.client.get_aliases).aliases
    return {alias.alias_name: alias.collection_name for alias in sorted(found, key=lambda a: a.alias_name)}


def collections(store: Store) -> set[str]:
    """Return the names of all collections, aliases left out."""
    return {found.name for found in store.call(store.client.get_collections).collections}
