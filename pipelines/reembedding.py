"""Stored vectors against new ones: is a vector the one that its point's text has?

A point keeps its text and the hash of what was embedded. The chunker says what that may have been; the form with
that hash is embedded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from pipelines.chunking import Chunker, ChunkingConfig
from pipelines.damage import metadata_of
from pipelines.points import CONTENT_KEY, METADATA_KEY
from pipelines.store import batches

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.collection import Collection
    from pipelines.errors import JSON
    from pipelines.ledger import LedgerEntry
    from pipelines.manifest import Manifest
    from pipelines.store import Store

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest difference between numbers of two unit vectors of one text that counts as rounding, by dtype.

float32: one machine repeats itself within 1e-5 whatever the batch; another kernel or BLAS adds up in another order,
for which a factor of ten is left. The other two scale with their rounding steps, 2^-8 and 2^-11, over tens of layers.
A wrong layer or another bias moves canaries by 1e-2 and more in float32.
"""
DISTANCE = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 2e-2}
"""Largest distance between two unit vectors of one text that counts as rounding, by dtype.

Where a vector has thousands of numbers each of them is small, and vectors of two texts may differ by less than
`TOLERANCE` in each. Between batch sizes the demo model moves by 1e-7, 2e-3 and 3e-4; its nearest two of 96 source
code chunks are 0.2 apart.
"""
CUT_KEY = "truncated_tokens"
"""Where a point's metadata says how many tokens of its text did not fit, if any."""

Verdict: TypeAlias = Literal["same", "altered", "text", "gone"]
"""Of a stored vector; "text" where no form of the stored text has the stored hash."""

_BATCH = 128


@dataclass(frozen=True, slots=True, order=True)
class Drawn:
    """A point whose vector is to be looked at.

    Attributes:
        point_id: Of the point.
        document_id: Whose it is.
        hashed: The document's ledger entry has a hash of its payloads, so that the comparison of these has told
            already whether the text was altered.
    """

    point_id: str
    document_id: str
    hashed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A stored vector beside a new one.

    Attributes:
        drawn: The point.
        verdict: What was found.
        payload: As it is stored.
        vector: Of the text as the encoder embeds it now, (E,) float32; None where there is no text to embed.
    """

    drawn: Drawn
    verdict: Verdict
    payload: Mapping[str, JSON]
    vector: NDArray[np.float32] | None


class PointSample:
    """Some points out of all that are offered: those whose keyed hashes are smallest.

    Args:
        size: How many.
        seed: The same seed draws the same ones, whatever the order.
    """

    def __init__(self, size: int, seed: str) -> None:
        self._size = size
        self._key = hashlib.sha256(seed.encode("utf-8")).digest()
        self._heap: list[tuple[int, Drawn]] = []

    def offer(self, drawn: Drawn) -> None:
        """Take a point, or leave it."""
        if not self._size:
            return
        digest = hashlib.blake2b(drawn.point_id.encode("ascii"), digest_size=16, key=self._key).digest()
        item = (-int.from_bytes(digest, "big"), drawn)  # the largest stands first, to go first
        if len(self._heap) < self._size:
            heappush(self._heap, item)
        else:
            heappushpop(self._heap, item)

    @property
    def drawn(self) -> list[Drawn]:
        """The sample, in an order that is the same for the same seed."""
        return [drawn for _, drawn in sorted(self._heap, key=lambda item: -item[0])]


def named_points(entry: LedgerEntry, absent: Sequence[str] = ()) -> Iterator[Drawn]:
    """Yield the points of a document, but for absent ones."""
    hashed = entry.payload_hash != ""
    gone = frozenset(absent)
    return (Drawn(point, entry.document_id, hashed) for point in entry.point_ids if point not in gone)


class Reembedding:
    """Embeds stored chunks again.

    Args:
        store: Where they are.
        collection: The physical collection.
        encoder: The one that filled it.
    """

    def __init__(self, store: Store, collection: Collection, encoder: KVEncoder) -> None:
        self._store = store
        self._physical = collection.physical
        self._encoder = encoder
        self._chunker = chunker_of(collection.manifest, encoder)
        self._dtype = str(collection.manifest.encoder["dtype"])

    def compare(self, drawn: Iterable[Drawn]) -> Iterator[list[Compared]]:
        """Look at points, some hundred at a time."""
        for batch in batches(drawn, _BATCH):
            yield self._compared(batch)

    def recounted(self, payloads: Mapping[str, Mapping[str, JSON]]) -> dict[str, Mapping[str, JSON]]:
        """Return the payloads that say a wrong number of cut tokens, with the right one, by point."""
        right: dict[str, Mapping[str, JSON]] = {}
        for batch in batches(payloads.items(), _BATCH):
            texts = {point: embedded_text(self._chunker, payload) for point, payload in batch}
            known = {point: text for point, text in texts.items() if text is not None}
            if not known:
                continue
            cut = self._encoder.encode_counted(list(known.values()), "document").truncated_tokens
            for point, tokens in zip(known, cut, strict=True):
                metadata = {key: value for key, value in metadata_of(payloads[point]).items() if key != CUT_KEY}
                metadata |= {CUT_KEY: int(tokens)} if tokens else {}
                if metadata != metadata_of(payloads[point]):
                    right[point] = {**payloads[point], METADATA_KEY: metadata}
        return right

    def _compared(self, batch: list[Drawn]) -> list[Compared]:
        records = self._store.call(
            self._store.client.retrieve, self._physical, ids=[item.point_id for item in batch], with_vectors=True
        )
        found = {str(record.id): record for record in records}
        texts = {point: embedded_text(self._chunker, record.payload or {}) for point, record in found.items()}
        known = {point: text for point, text in texts.items() if text is not None}
        vectors = dict(zip(known, self._encoder.encode_document(list(known.values())), strict=True)) if known else {}
        return [self._judged(item, found.get(item.point_id), vectors.get(item.point_id)) for item in batch]

    def _judged(self, drawn: Drawn, record: models.Record | None, vector: NDArray[np.float32] | None) -> Compared:
        if record is None:
            return Compared(drawn, "gone", {}, None)
        payload = record.payload or {}
        if vector is None:
            return Compared(drawn, "text", payload, None)
        verdict: Verdict = "same" if _same(record.vector, vector, self._dtype) else "altered"
        return Compared(drawn, verdict, payload, vector)


def chunker_of(manifest: Manifest, encoder: KVEncoder) -> Chunker:
    """Return the chunker that cut what is in a collection."""
    return Chunker(ChunkingConfig.from_dict(manifest.chunking), encoder)


def embedded_text(chunker: Chunker, payload: Mapping[str, JSON]) -> str | None:
    """Return what a stored chunk was embedded as; None when no form of its text has its hash."""
    text, metadata = payload.get(CONTENT_KEY), metadata_of(payload)
    title, content_hash = metadata.get("title"), metadata.get("content_hash")
    if not isinstance(text, str) or not isinstance(title, str):
        return None
    forms = chunker.embedded_forms(title, text)
    return next((form for form in forms if hashlib.sha256(form.encode("utf-8")).hexdigest() == content_hash), None)


def unit_vector(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a vector to unit length, as a collection that compares by cosine does; one of zeros stays."""
    scaled: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled


def _same(stored: object, new: NDArray[np.float32], dtype: str) -> bool:
    if not isinstance(stored, list) or len(stored) != new.size:  # a named vector, or none
        return False
    difference = unit_vector(np.asarray(stored, dtype=np.float32)) - unit_vector(new)
    # Written so that a number that is not finite is no rounding.
    return bool(np.abs(difference).max() <= TOLERANCE[dtype] and np.linalg.norm(difference) <= DISTANCE[dtype])
