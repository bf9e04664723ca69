"""A document's chunks, and where each gets its vector: from its own point, from the document's former id, or anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

from pipelines.points import CONTENT_KEY, METADATA_KEY, Occurrences, payload, payload_digest
from pipelines.store import batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.chunking import Chunker
    from pipelines.documents import Chunk, Document
    from pipelines.drafts import Draft, Tally
    from pipelines.errors import JSON
    from pipelines.point_store import PointStore

_BATCH = 512
_LARGEST_METADATA = 4_000_000  # characters as JSON: they are in every point, and a server takes 32 MiB a request


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A chunk and what its point needs.

    Attributes:
        chunk: The chunk.
        point_id: Of its point.
        described: Its payload; None where the chunk has to be encoded.
        vector: Taken over from the document's former id; None where the point has its vector already.
        fresh: The point that is there has another payload.
    """

    chunk: Chunk
    point_id: str
    described: Mapping[str, JSON] | None = None
    vector: NDArray[np.float32] | None = None
    fresh: bool = False


class Cutting:
    """Cuts documents and finds the vectors that are there already.

    Args:
        chunker: Cuts.
        points: Of the collection that is written.
        tally: Counts the seconds.
    """

    def __init__(self, chunker: Chunker, points: PointStore, tally: Tally) -> None:
        self._chunker = chunker
        self._points = points
        self._tally = tally

    def pieces(self, draft: Draft) -> Iterator[Piece]:
        """Cut one document, in order, and note its points in the draft.

        Raises:
            ValueError: its metadata is too large for any request.
            Exception: any of `CHUNKING_FAILURES`; it cannot be cut.
        """
        _check_metadata(draft.document)
        named, former = Occurrences(), Occurrences()
        for chunks in batches(self._chunks(draft.document), _BATCH):
            names = [named.point_id(chunk) for chunk in chunks]
            draft.point_ids.extend(names)
            old = draft.old_ids
            stored = self._points.payloads([name for name in names if name in old])
            taken = self._taken(draft, chunks, former)
            for chunk, name in zip(chunks, names, strict=True):
                if name in stored and _is_intact(stored[name], chunk):
                    described = _described(draft, chunk, stored[name])
                    yield Piece(chunk, name, described, fresh=described != stored[name])
                elif chunk.index in taken:
                    vector, before = taken[chunk.index]
                    yield Piece(chunk, name, _described(draft, chunk, before), vector)
                else:
                    yield Piece(chunk, name)

    def _chunks(self, document: Document) -> Iterator[Chunk]:
        chunks = iter(self._chunker.chunks(document))
        while True:
            started = perf_counter()
            chunk = next(chunks, None)
            self._tally.seconds["chunk"] += perf_counter() - started
            if chunk is None:
                return
            yield chunk

    def _taken(
        self, draft: Draft, chunks: Sequence[Chunk], former: Occurrences
    ) -> dict[int, tuple[NDArray[np.float32], Mapping[str, JSON]]]:
        """Find the vectors of these chunks under the document's former id, by the chunk's index."""
        if draft.donor is None:
            return {}
        names = {chunk.index: former.point_id(chunk, draft.donor.document_id) for chunk in chunks}
        there = frozenset(draft.donor.point_ids)
        found = self._points.vectors([name for name in names.values() if name in there])
        return {
            chunk.index: found[names[chunk.index]]
            for chunk in chunks
            if names[chunk.index] in found and _is_intact(found[names[chunk.index]][1], chunk)
        }


def _described(draft: Draft, chunk: Chunk, stored: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return the payload of a chunk that was embedded before, and count it as reused."""
    metadata = cast("Mapping[str, JSON]", stored[METADATA_KEY])
    cut = int(cast("float", metadata.get("truncated_tokens", 0)))
    draft.count_cut(cut)
    draft.reused += 1
    described = payload(draft.document, chunk, truncated_tokens=cut)
    draft.digests[chunk.index] = payload_digest(described)
    return described


def _is_intact(stored: Mapping[str, JSON], chunk: Chunk) -> bool:
    """Tell whether a point still says that it is of this chunk; the vector of one that does not is not trusted."""
    metadata = stored.get(METADATA_KEY)
    if not isinstance(metadata, Mapping):
        return False
    return stored.get(CONTENT_KEY) == chunk.text and metadata.get("content_hash") == chunk.content_hash


def _check_metadata(document: Document) -> None:
    size = len(json.dumps(dict(document.metadata))) + sum(len(title.title) for title in document.headings)
    size += len(document.title) + len(document.source) + len(document.id)
    if size > _LARGEST_METADATA:
        raise ValueError(
            f"the document's metadata takes {size:,} characters as JSON, and every one of its points carries it; "
            f"a point may have {_LARGEST_METADATA:,}; shorten the metadata"
        )
