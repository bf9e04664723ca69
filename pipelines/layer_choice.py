"""Re-routing layers "auto" -> concrete layers, from a sample of the corpus' own chunks."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvembed import KVEncoder
    from pipelines.documents import Chunk
    from pipelines.errors import JSON

SAMPLE = 1000
"""Texts; the size that re-implementations of the paper use (r)."""


class ChunkSample:
    """A uniform sample of distinct chunks, whatever their order and number.

    Kept are the chunks of least content hash: the same corpus gives the same sample on every machine, and no text is
    in it twice. Memory holds the sample alone.
    """

    def __init__(self, size: int = SAMPLE) -> None:
        self._size = size
        self._kept: list[tuple[int, str]] = []  # heap, the largest hash first
        self._hashes: set[int] = set()

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Consider chunks."""
        for chunk in chunks:
            key = int(chunk.content_hash[:32], 16)
            if key in self._hashes:
                continue
            item = (-key, chunk.embedded_text)
            if len(self._kept) < self._size:
                heapq.heappush(self._kept, item)
            elif -key > self._kept[0][0]:
                removed = heapq.heapreplace(self._kept, item)
                self._hashes.discard(-removed[0])
            else:
                continue
            self._hashes.add(key)

    @property
    def texts(self) -> list[str]:
        """The sampled chunks as they are embedded, in order of their hash."""
        return [text for _, text in sorted(self._kept, reverse=True)]


def resolve_layers(encoder: KVEncoder, texts: list[str]) -> tuple[KVEncoder, dict[str, JSON] | None, str | None]:
    """Choose layers for an encoder.

    Returns:
        The encoder with its layers; the profile they come from, None when the sample was too small for one; then a
        warning that says so.
    """
    from kvembed.errors import DegenerateStatesError
    from kvembed.layer_selection import layer_window, select_layers

    try:
        profile = select_layers(encoder, texts)
    except DegenerateStatesError as error:
        half = encoder.num_layers // 2
        start = min((layer for layer in encoder.reroutable_layers if layer >= half), default=half)
        layers = layer_window(encoder, start)
        return (
            encoder.with_layers(layers),
            None,
            f"layers {list(layers)} were taken at half depth, not chosen from the corpus: {error}, or name the layers",
        )
    return encoder.with_layers(profile.layers), cast("dict[str, JSON]", profile.to_dict()), None
