"""Does a collection hold what its ledger says, and does its encoder still compute what it computed?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.damage import missing_points
from pipelines.point_store import PointStore
from pipelines.store import batches

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.collection import Collection
    from pipelines.errors import JSON
    from pipelines.store import Store, StoreLike

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest difference between numbers of two unit vectors of one canary that counts as rounding, by dtype.

float32: one machine repeats itself within 1e-5 whatever the batch; another kernel or BLAS adds up in another order,
for which a factor of ten is left. The other two scale with their rounding steps, 2^-8 and 2^-11, over tens of layers.
A wrong layer or another bias moves canaries by 1e-2 and more in float32.
"""
_BATCH = 512
_NAMED = 20


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check found; `ok` when nothing is wrong."""

    collection: str
    physical: str
    ok: bool
    problems: tuple[str, ...]
    """One sentence each, for a person."""
    documents: int
    chunks: int
    missing_points: int
    """Points that the ledger names and the collection lacks."""
    missing_documents: tuple[str, ...]
    """Ids of the first documents that lack points."""
    stray_points: int
    """Points that no ledger entry names."""
    stray_ids: tuple[str, ...]
    """The first of them."""
    canaries: int
    canary_difference: float
    """Largest difference between numbers of a stored and a new canary vector, both of unit length."""
    canary_cosine: float
    """Least cosine between a stored and a new canary vector."""
    tolerance: float
    interrupted: bool
    """The last run was cut short, or goes on; the next one mends what it left."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the report as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def verify(store: StoreLike | None, name: str, *, model: str | None = None) -> VerifyReport:
    """Compare manifest, ledger and points, and embed the canaries again.

    Args:
        store: Folder, URL or client; None takes the one of the settings.
        name: Collection.
        model: Where the model lies, if it was moved.

    Raises:
        TerminalError: the collection cannot be opened; as `open_collection`.
    """
    from pipelines.retrieval import open_collection

    with open_collection(store, name, model=model) as collection:
        return collection.verify()


def verify_collection(store: Store, collection: Collection, encoder: KVEncoder) -> VerifyReport:
    """Check one collection that is open already, batch by batch; only ids of what is wrong are kept."""
    points = PointStore(store, collection.physical)
    documents, missing, lacking = _missing(collection, points)
    chunks, stray = _stray(collection, points)
    difference, cosine = _canaries(collection, encoder)
    tolerance = TOLERANCE[str(collection.manifest.encoder["dtype"])]
    run = collection.ledger.run()
    problems = []
    if missing:
        problems.append(f"{missing} points that the ledger names are missing, first in {lacking[0]!r}; index again")
    if stray:
        problems.append(
            f"{len(stray)} points belong to no form of a document that the ledger knows, first {stray[0]}; searches "
            "find them; if nobody put them there on purpose, delete them by id with the Qdrant client: "
            f"client.delete({collection.physical!r}, points_selector=IDS)"
        )
    if run.in_flight:
        problems.append(f"the last run ended while it wrote {len(run.in_flight)} documents; index again")
    if not difference <= tolerance:
        problems.append(
            f"the encoder computes other vectors than when the collection was filled: canaries differ by "
            f"{difference:.2g}, where {tolerance:.2g} is rounding"
        )
    return VerifyReport(
        collection=collection.name,
        physical=collection.physical,
        ok=not problems,
        problems=tuple(problems),
        documents=documents,
        chunks=chunks,
        missing_points=missing,
        missing_documents=tuple(lacking[:_NAMED]),
        stray_points=len(stray),
        stray_ids=tuple(stray[:_NAMED]),
        canaries=len(collection.manifest.canaries),
        canary_difference=difference,
        canary_cosine=cosine,
        tolerance=tolerance,
        interrupted=bool(run.in_flight),
    )


def _missing(collection: Collection, points: PointStore) -> tuple[int, int, list[str]]:
    documents = missing = 0
    lacking: list[str] = []
    for entry, gone in missing_points(collection.ledger, points):
        documents += 1
        missing += gone
        if gone:
            lacking.append(entry.document_id)
    return documents, missing, lacking


def _stray(collection: Collection, points: PointStore) -> tuple[int, list[str]]:
    chunks = 0
    stray: list[str] = []
    for batch in batches(points.scan(), _BATCH):
        chunks += len(batch)
        entries = collection.ledger.get({document_id for _, document_id in batch})
        named = {point_id for entry in entries.values() for point_id in entry.point_ids}
        stray += [point_id for point_id, _ in batch if point_id not in named]
    return chunks, stray


def _canaries(collection: Collection, encoder: KVEncoder) -> tuple[float, float]:
    difference, cosine = 0.0, 1.0
    for canary in collection.manifest.canaries:
        encode = encoder.encode_query if canary.role == "query" else encoder.encode_document
        new = _unit(encode([canary.text])[0])
        old = _unit(np.array(canary.vector, dtype=np.float32))
        if new.shape != old.shape:
            return float("inf"), -1.0
        difference = max(difference, float(np.abs(new - old).max()))
        cosine = min(cosine, float(new @ old))
    return difference, cosine


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled
