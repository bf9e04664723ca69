"""What a plan would take: chunks and tokens by cutting, seconds by the speed of an earlier run of the same model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipelines.points import Occurrences
from pipelines.transform_choice import comparable_identity

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import Chunker
    from pipelines.documents import Document
    from pipelines.ledger import LedgerEntry
    from pipelines.manifest import Manifest
    from pipelines.point_store import PointStore
    from pipelines.report import IngestPlan
    from pipelines.run_records import RunRecord

_SPEED = ("weights_sha256", "dtype", "method")
"""Of an encoder's identity, what its speed depends on; which layers are re-routed and how text is cut hardly count."""


def runs_as_fast(manifest: Manifest, encoder: KVEncoder) -> bool:
    """Tell whether an encoder takes as long for a token as the one that filled a collection."""
    resolved = encoder if encoder.config.layers != "auto" else encoder.with_layers(())
    given = comparable_identity(resolved)
    return all(manifest.encoder.get(field) == given.get(field) for field in _SPEED)


@dataclass(slots=True)
class Cost:
    """Counts what is to be embedded: chunks, and tokens the model will see, prompts included.

    Attributes:
        added: The two of every document that is new, by its id; one that turns out to have moved costs nothing.
        chunks: Of documents that changed: those whose text was not embedded before.
        tokens: Of these chunks.
    """

    added: dict[str, tuple[int, int]] = field(default_factory=dict)
    chunks: int = 0
    tokens: int = 0

    def add(
        self,
        document: Document,
        chunker: Chunker,
        encoder: KVEncoder,
        points: PointStore | None,
        before: LedgerEntry | None,
    ) -> None:
        """Count one document that is to be written.

        Args:
            document: What is written.
            chunker: Cuts it; a document that cannot be cut is not counted at all, and not written either.
            encoder: Whose tokens are counted.
            points: Of the collection that is written; None where there is none yet.
            before: What the ledger says of it, with its point ids.
        """
        occurrences = Occurrences()
        there = points.existing(before.point_ids) if before and points else set()
        texts = [chunk.embedded_text for chunk in chunker.chunks(document) if occurrences.point_id(chunk) not in there]
        lengths = (len(encoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
        tokens = sum(encoder.document_copies * length + encoder.document_overhead for length in lengths)
        if before is None or not before.committed:
            self.added[document.id] = (len(texts), tokens)
        else:
            self.chunks += len(texts)
            self.tokens += tokens

    def added_to(self, planned: IngestPlan, last: RunRecord | None) -> IngestPlan:
        """Return the plan with its cost; the seconds are by the speed of an earlier run, if one was measured."""
        moved = {new for _, new in planned.moved}
        fresh = [cost for document_id, cost in self.added.items() if document_id not in moved]
        chunks = self.chunks + sum(count for count, _ in fresh)
        tokens = self.tokens + sum(count for _, count in fresh)
        speed = last.tokens / last.encode_seconds if last and last.tokens and last.encode_seconds else None
        return replace(
            planned,
            chunks_to_embed=chunks,
            tokens_to_embed=tokens,
            seconds_to_embed=round(tokens / speed, 1) if speed else None,
        )
