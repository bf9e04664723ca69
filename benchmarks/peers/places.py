"""Where a store is: a folder, memory, or a server, spoken to by gRPC as this package does."""

from __future__ import annotations

import os

from qdrant_client import QdrantClient


def connect(place: str) -> QdrantClient:
    """Open a Qdrant for a tool that is handed a client.

    Args:
        place: Folder, ":memory:", or URL of a server.
    """
    if place == ":memory:":
        return QdrantClient(":memory:")
    if place.startswith("http://"):
        port = int(os.environ["KVEMBED_QDRANT_GRPC_PORT"])
        return QdrantClient(url=place, grpc_port=port, prefer_grpc=True, timeout=60, check_compatibility=False)
    return QdrantClient(path=place)
