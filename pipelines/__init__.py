"""Documents to chunks to points to a collection, and back out.

Imports kvembed and qdrant_client, never Prefect. Names are loaded on first use, so that importing the package, and
`kvembed --help` with it, needs neither torch nor Qdrant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.chunking import Chunker, ChunkingConfig
    from pipelines.documents import Chunk, Document, RejectedDocument
    from pipelines.errors import (
        ChunkingError,
        CollectionBusyError,
        CollectionNotFoundError,
        DeletionGuardError,
        EncoderMismatchError,
        ForeignCollectionError,
        InvalidCollectionNameError,
        LeaseLostError,
        ManifestError,
        ModelUnavailableError,
        NoPreviousGenerationError,
        PipelineError,
        RebuildError,
        SourceError,
        StoreError,
        StoreFullError,
        StoreLockedError,
        StoreNotFoundError,
        StoreUnavailableError,
        TerminalError,
        TooManyQuarantinedError,
        TransientError,
    )
    from pipelines.generations import PruneReport, Swap, prune, rollback
    from pipelines.indexing import Indexing, open_indexing
    from pipelines.ingestion import ingest, plan
    from pipelines.inventory import CollectionStatus, status
    from pipelines.manifest import Manifest
    from pipelines.options import DeletionGuard, IngestOptions
    from pipelines.pinned import PinnedCollection
    from pipelines.report import IngestPlan, IngestReport, Progress, QuarantinedDocument, SearchHit
    from pipelines.retrieval import OpenCollection, open_collection
    from pipelines.sources import Source, open_source
    from pipelines.storage import StorageConfig
    from pipelines.verification import VerifyReport, verify

_HOMES = {
    "Chunk": "documents",
    "Chunker": "chunking",
    "ChunkingConfig": "chunking",
    "ChunkingError": "errors",
    "CollectionBusyError": "errors",
    "CollectionNotFoundError": "errors",
    "CollectionStatus": "inventory",
    "DeletionGuard": "options",
    "DeletionGuardError": "errors",
    "Document": "documents",
    "EncoderMismatchError": "errors",
    "ForeignCollectionError": "errors",
    "Indexing": "indexing",
    "IngestOptions": "options",
    "IngestPlan": "report",
    "IngestReport": "report",
    "InvalidCollectionNameError": "errors",
    "LeaseLostError": "errors",
    "Manifest": "manifest",
    "ManifestError": "errors",
    "ModelUnavailableError": "errors",
    "NoPreviousGenerationError": "errors",
    "OpenCollection": "retrieval",
    "PinnedCollection": "pinned",
    "PipelineError": "errors",
    "Progress": "report",
    "PruneReport": "generations",
    "QuarantinedDocument": "report",
    "RebuildError": "errors",
    "RejectedDocument": "documents",
    "SearchHit": "report",
    "Source": "sources",
    "SourceError": "errors",
    "StorageConfig": "storage",
    "StoreError": "errors",
    "StoreFullError": "errors",
    "StoreLockedError": "errors",
    "StoreNotFoundError": "errors",
    "StoreUnavailableError": "errors",
    "Swap": "generations",
    "TerminalError": "errors",
    "TooManyQuarantinedError": "errors",
    "TransientError": "errors",
    "VerifyReport": "verification",
    "ingest": "ingestion",
    "open_collection": "retrieval",
    "open_indexing": "indexing",
    "open_source": "sources",
    "plan": "ingestion",
    "prune": "generations",
    "rollback": "generations",
    "status": "inventory",
    "verify": "verification",
}

__all__ = [
    "Chunk",
    "Chunker",
    "ChunkingConfig",
    "ChunkingError",
    "CollectionBusyError",
    "CollectionNotFoundError",
    "CollectionStatus",
    "DeletionGuard",
    "DeletionGuardError",
    "Document",
    "EncoderMismatchError",
    "ForeignCollectionError",
    "Indexing",
    "IngestOptions",
    "IngestPlan",
    "IngestReport",
    "InvalidCollectionNameError",
    "LeaseLostError",
    "Manifest",
    "ManifestError",
    "ModelUnavailableError",
    "NoPreviousGenerationError",
    "OpenCollection",
    "PinnedCollection",
    "PipelineError",
    "Progress",
    "PruneReport",
    "QuarantinedDocument",
    "RebuildError",
    "RejectedDocument",
    "SearchHit",
    "Source",
    "SourceError",
    "StorageConfig",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StoreUnavailableError",
    "Swap",
    "TerminalError",
    "TooManyQuarantinedError",
    "TransientError",
    "VerifyReport",
    "ingest",
    "open_collection",
    "open_indexing",
    "open_source",
    "plan",
    "prune",
    "rollback",
    "status",
    "verify",
]


# A module named like a function of the package would take the function's place once it is imported, so none is.
def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipelines.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
