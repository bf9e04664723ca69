"""Chunks of several documents -> vectors, so that one bad document does not cost the others theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvembed.errors import (
    EncoderClosedError,
    KVEmbedError,
    LayersUnresolvedError,
    ReroutingNotAppliedError,
    TextTooLargeError,
    WorkerDiedError,
)
from pipelines import telemetry
from pipelines.documents import Chunk, EncodedChunk
from pipelines.errors import TerminalError

if TYPE_CHECKING:
    from kvembed import KVEncoder

_SYSTEMIC = (LayersUnresolvedError, ReroutingNotAppliedError, WorkerDiedError, EncoderClosedError)
_PER_DOCUMENT = (KVEmbedError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError)
_MACHINE_CLASSES = frozenset({"AcceleratorError", "OutOfMemoryError"})  # PyTorch's, by name: it is not loaded here
_MACHINE_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "cuda error",
    "cuda driver",
    "hip error",
    "device-side assert",
    "cublas",
    "cudnn",
    "mps backend",
)
HARMLESS = Chunk("kvembed", 0, "kvembed", 0, 7, (), "kvembed")
"""What an encoder that works at all can embed."""


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
        KVEmbedError: what failed has nothing to do with one document: re-routing did not fire, a device's process died.
        TerminalError: a device has no memory for one chunk alone; names its document.
        RuntimeError: the device failed.
        Exception: every document failed, and so does a harmless text; then the first failure, as it came.
    """
    with telemetry.encoding(encoder) as done:
        outcome = _encode_all(encoder, chunks)
        done.chunks, done.tokens = len(outcome.chunks), sum(found.tokens for found in outcome.chunks.values())
    return outcome


def _encode_all(encoder: KVEncoder, chunks: Sequence[Chunk]) -> Encoded:
    try:
        return Encoded(chunks=_encode(encoder, chunks, range(len(chunks))))
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
    if len(outcome.failures) == len(by_document) and not _works(encoder):
        raise error
    return outcome


def _works(encoder: KVEncoder) -> bool:
    """Tell whether the documents are at fault, where none of them could be embedded."""
    try:
        return bool(_encode(encoder, [HARMLESS], [0]))
    except _PER_DOCUMENT:
        return False


def _encode(encoder: KVEncoder, chunks: Sequence[Chunk], positions: Sequence[int]) -> dict[int, EncodedChunk]:
    if not positions:
        return {}
    try:
        encoding = encoder.encode_counted([chunks[position].embedded_text for position in positions], "document")
    except TextTooLargeError as error:
        raise _too_large(chunks[positions[error.index]], error) from error
    vectors = np.ascontiguousarray(encoding.vectors, dtype=np.float32)
    if vectors.shape != (len(positions), encoder.dimension):
        raise ValueError(f"the encoder returned shape {vectors.shape} for {len(positions)} texts")
    return {
        position: EncodedChunk(chunks[position], vector, int(tokens), int(truncated))
        for position, vector, tokens, truncated in zip(
            positions, vectors, encoding.tokens, encoding.truncated_tokens, strict=True
        )
    }


def _too_large(chunk: Chunk, error: TextTooLargeError) -> TerminalError:
    """No fault of the document: its chunks are no longer than others, and a machine with more memory takes them."""
    return TerminalError(
        f"document {chunk.document_id!r}, chunk {chunk.index}: {error.device} has no memory for its {error.tokens} "
        "tokens alone; cut smaller chunks with --max-tokens, give a smaller --dtype or --model, or another --device"
    )


def _is_of_the_machine(error: Exception) -> bool:
    """Tell a failure that says nothing of the document; PyTorch has a class of its own for few of them."""
    if any(kind.__name__ in _MACHINE_CLASSES for kind in type(error).__mro__):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in _MACHINE_MESSAGES)


def reason_of(error: Exception) -> str:
    """Say in one line what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
