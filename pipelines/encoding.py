"""Chunks of several documents -> vectors, so that one bad document does not cost the others theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvembed.errors import KVEmbedError, LayersUnresolvedError, ReroutingNotAppliedError
from pipelines.documents import EncodedChunk

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.documents import Chunk

_SYSTEMIC = (LayersUnresolvedError, ReroutingNotAppliedError)
_PER_DOCUMENT = (KVEmbedError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError)


@dataclass(slots=True)
class Encoded:
    """Outcome of encoding some chunks."""

    chunks: dict[int, EncodedChunk] = field(default_factory=dict)
    """By position in the input."""
    failures: dict[str, str] = field(default_factory=dict)
    """Document id -> reason; none of its chunks is in `chunks`."""


def encode_chunks(encoder: KVEncoder, chunks: Sequence[Chunk]) -> Encoded:
    """Embed chunks together; when that fails, document by document, to find the ones that cannot be.

    Args:
        encoder: Its layers are resolved.
        chunks: Of any number of documents.

    Raises:
        KVEmbedError: what failed has nothing to do with one document: re-routing did not fire.
        RuntimeError: memory ran out on a single document.
        Exception: every one of several documents failed; then the first failure, as it came.
    """
    everything = range(len(chunks))
    try:
        return Encoded(chunks=_encode(encoder, chunks, everything))
    except _SYSTEMIC:
        raise
    except _PER_DOCUMENT as error:
        return _one_by_one(encoder, chunks, error)


def _one_by_one(encoder: KVEncoder, chunks: Sequence[Chunk], error: Exception) -> Encoded:
    by_document: dict[str, list[int]] = {}
    for position, chunk in enumerate(chunks):
        by_document.setdefault(chunk.document_id, []).append(position)
    outcome = Encoded()
    for document_id, positions in by_document.items():
        try:
            outcome.chunks |= _encode(encoder, chunks, positions)
        except _SYSTEMIC:
            raise
        except _PER_DOCUMENT as failure:
            if _is_of_the_machine(failure):
                raise
            outcome.failures[document_id] = reason_of(failure)
    if len(by_document) > 1 and len(outcome.failures) == len(by_document):
        raise error
    return outcome


def _encode(encoder: KVEncoder, chunks: Sequence[Chunk], positions: Sequence[int]) -> dict[int, EncodedChunk]:
    if not positions:
        return {}
    encoding = encoder.encode_counted([chunks[position].embedded_text for position in positions], "document")
    vectors = np.ascontiguousarray(encoding.vectors, dtype=np.float32)
    if vectors.shape != (len(positions), encoder.dimension):
        raise ValueError(f"the encoder returned shape {vectors.shape} for {len(positions)} texts")
    return {
        position: EncodedChunk(chunks[position], vector, int(tokens), int(truncated))
        for position, vector, tokens, truncated in zip(
            positions, vectors, encoding.tokens, encoding.truncated_tokens, strict=True
        )
    }


def _is_of_the_machine(error: Exception) -> bool:
    """Tell a failure that another machine would not have; PyTorch has no class of its own for it on every device."""
    return "out of memory" in str(error).lower()


def reason_of(error: Exception) -> str:
    """Say in one line what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
