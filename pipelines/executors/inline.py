"""This process embeds and writes; nothing is started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipelines.planning import text_batches

if TYPE_CHECKING:
    from pipelines.documents import Document
    from pipelines.executors import ShardJob


class InlineExecutor:
    """The executor without other processes."""

    name = "inline"

    def embed_shards(self, job: ShardJob, documents: Iterable[Document]) -> Iterator[int]:
        """Write documents with the writer of the run; see `Executor.embed_shards`."""
        before = job.writer.through
        for batch in text_batches(documents, job.read):
            for through in job.writer.write(batch):
                yield through - before
        for through in job.writer.flush():
            yield through - before

    def close(self) -> None:
        """Nothing was started."""
