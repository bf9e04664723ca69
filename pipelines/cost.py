"""What a plan would take: chunks and tokens by cutting, seconds by the speed of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import Chunker
    from pipelines.documents import Document
    from pipelines.ledger import RunRecord
    from pipelines.report import IngestPlan


@dataclass(slots=True)
class Cost:
    """Counts what is to be embedded.

    Attributes:
        chunks: So far.
        tokens: The model will see, prompts included.
    """

    chunks: int = 0
    tokens: int = 0

    def add(self, document: Document, chunker: Chunker, encoder: KVEncoder) -> None:
        """Count one document that is to be written; it counts whole, whatever of it can be reused."""
        texts = [chunk.embedded_text for chunk in chunker.chunks(document)]  # all of them, or it is not written
        self.chunks += len(texts)
        lengths = (len(encoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
        self.tokens += sum(length + encoder.document_overhead for length in lengths)

    def added_to(self, planned: IngestPlan, last: RunRecord | None) -> IngestPlan:
        """Return the plan with its cost; the seconds are by the speed of the last run, if there was one."""
        speed = last.tokens / last.encode_seconds if last and last.tokens and last.encode_seconds else None
        return replace(
            planned,
            chunks_to_embed=self.chunks,
            tokens_to_embed=self.tokens,
            seconds_to_embed=round(self.tokens / speed, 1) if speed else None,
        )
