"""Chunks and vectors -> points: deterministic ids, and the payload LangChain reads."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.documents import Chunk, Document
    from pipelines.errors import JSON

_NAMESPACE = uuid.UUID("6c1f6f4e-55f1-5e0b-9d0c-3b6f6d0a7f11")

CONTENT_KEY = "page_content"
METADATA_KEY = "metadata"
DOCUMENT_ID_FIELD = f"{METADATA_KEY}.document_id"
INDEXED_FIELDS = (DOCUMENT_ID_FIELD, f"{METADATA_KEY}.source", f"{METADATA_KEY}.content_hash")
"""Payload fields that people and this package filter on; a server indexes them as keywords."""

CHUNK_KEYS = frozenset(
    {"document_id", "title", "source", "chunk_index", "start", "end", "heading_path", "content_hash"}
    | {"truncated_tokens", "_id", "_collection_name"}
)
"""Keys of a point's metadata that are not the document's own."""


def point_id(document_id: str, content_hash: str, occurrence: int) -> str:
    """Name a chunk's point.

    A chunk is its text and how often the same text came before it in the document, so a chunk that merely moved
    keeps its point, and with it its vector.

    Args:
        document_id: Any text; separators, slashes and newlines in it are harmless.
        content_hash: `Chunk.content_hash`.
        occurrence: Chunks of this document before this one with the same hash.

    Returns:
        UUIDv5 of the JSON array of the three, in its canonical spelling.
    """
    return _uuid("chunk", document_id, content_hash, occurrence)


def ledger_id(document_id: str) -> str:
    """Name a document's ledger entry, a UUIDv5 as well."""
    return _uuid("document", document_id)


def run_id() -> str:
    """Name the ledger's one record of the last writing run."""
    return _uuid("run")


def mark_id(key: str) -> str:
    """Name what one of several processes of a run notes in the ledger."""
    return _uuid("mark", key)


def transform_part_id(number: int) -> str:
    """Name a part of the numbers of a collection's transform, in its ledger."""
    return _uuid("transform", number)


def control_id(kind: str) -> str:
    """Name a record of a control collection."""
    return _uuid("control", kind)


class Occurrences:
    """Counts equal chunks of one document, in order, to tell them apart."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def point_id(self, chunk: Chunk, document_id: str | None = None) -> str:
        """Name the point of the document's next chunk.

        Args:
            chunk: The chunk.
            document_id: Name it as if the document had this id.
        """
        occurrence = self._seen[chunk.content_hash]
        self._seen[chunk.content_hash] += 1
        return point_id(document_id or chunk.document_id, chunk.content_hash, occurrence)


def payload(document: Document, chunk: Chunk, *, truncated_tokens: int = 0) -> dict[str, JSON]:
    """Describe a chunk as LangChain's Qdrant store expects it.

    The document's own metadata stands beside ours; a key that ours needs is kept with `meta_` before it.
    """
    metadata: dict[str, JSON] = _own_metadata(document.metadata)
    metadata |= {
        "document_id": document.id,
        "title": document.title,
        "source": document.source,
        "chunk_index": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "heading_path": list(chunk.heading_path),
        "content_hash": chunk.content_hash,
    }
    if truncated_tokens:
        metadata["truncated_tokens"] = truncated_tokens
    return {CONTENT_KEY: chunk.text, METADATA_KEY: metadata}


def text_hash(text: str) -> str:
    """Hash a document's text alone, by which it is known again under another id; 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def payload_digest(described: Mapping[str, JSON]) -> bytes:
    """Hash a payload so that it is recognised when it comes back from the store; 32 bytes.

    Numbers count to twelve digits: a store may hand back 1 for 1.0, or the last bit of a fraction changed.
    """
    text = json.dumps(_comparable(described), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).digest()


def payload_hash(digests: Iterable[bytes]) -> str:
    """Hash the payloads of one document, from their digests in document order; 64 hexadecimal digits."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _comparable(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        return {key: _comparable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(inner) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format(float(value), ".12g")
    return value


def _own_metadata(given: Mapping[str, JSON]) -> dict[str, JSON]:
    metadata: dict[str, JSON] = {}
    for key, value in given.items():
        name = key
        while name in CHUNK_KEYS or (name != key and name in given):
            name = f"meta_{name}"
        metadata[name] = value
    return metadata


def _uuid(*parts: str | int) -> str:
    return str(uuid.uuid5(_NAMESPACE, json.dumps(parts, ensure_ascii=True)))
