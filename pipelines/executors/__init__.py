"""Who embeds: this process, several processes of this machine, or a Ray cluster.

All of them bring documents into a collection by the same `pipelines.writer.Writer`, and leave the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.chunking import ChunkingConfig
    from pipelines.collection import Collection
    from pipelines.documents import Document
    from pipelines.lease_holder import Ticket
    from pipelines.marks import RunMarks
    from pipelines.store import Store
    from pipelines.writer import Writer

ExecutorName: TypeAlias = Literal["inline", "local", "ray"]
"""This process, several on this machine, or a Ray cluster."""

__all__ = ["Executor", "ExecutorName", "ShardJob", "open_executor"]


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What the shards of one pass have in common.

    Attributes:
        store: Of whoever holds the write lease.
        collection: Where to.
        encoder: Fills it; may not be loaded yet.
        chunking: Cuts the documents.
        pipeline: As `Survey.pipeline`.
        writer: Of this process; its tally is the run's.
        marks: The run's record.
        donors: New id -> old id, of documents whose text is the same under another id.
        was_committed: Whether a document had a searchable form before the pass.
        chunks: About how many chunks the documents of this call make.
        read: Documents to hand to a writer at a time.
        ticket: Of the lease, if there is one.
    """

    store: Store
    collection: Collection
    encoder: KVEncoder
    chunking: ChunkingConfig
    pipeline: str
    writer: Writer
    marks: RunMarks
    donors: Mapping[str, str]
    was_committed: Callable[[str], bool]
    chunks: int
    read: int
    ticket: Ticket | None


class Executor(Protocol):
    """Embeds documents and commits them, one writer to a document."""

    @property
    def name(self) -> str:
        """What a user calls it."""

    def embed_shards(self, job: ShardJob, documents: Iterable[Document]) -> Iterator[int]:
        """Bring documents into the collection; all are committed or quarantined when this ends.

        Args:
            job: What they have in common.
            documents: Each id once; read as they are needed.

        Yields:
            How many are through, whenever more are.

        Raises:
            TooManyQuarantinedError: more failed than are allowed.
            PipelineError: what ended the run; the documents in flight are marked.
        """

    def close(self) -> None:
        """End what was started; it can be used again."""


def open_executor(name: ExecutorName, *, workers: int | None = None, device: str | None = None) -> Executor:
    """Make the executor of a name; whoever makes it closes it.

    Args:
        name: Which.
        workers: Processes that embed; None takes as many as there are devices.
        device: Of the workers: "cpu" or "cuda"; None takes GPUs if there are any.

    Raises:
        ValueError: there is none of that name, it has no workers to count, or there are not so many devices.
    """
    if name not in get_args(ExecutorName):
        raise ValueError(f"executor is {name!r}; legal are {', '.join(get_args(ExecutorName))}")
    if name == "inline":
        from pipelines.executors.inline import InlineExecutor

        if workers is not None:
            raise ValueError(f"workers is {workers}, and the inline executor has none; choose another executor")
        return InlineExecutor()
    if name == "local":
        from pipelines.executors.local import LocalExecutor

        return LocalExecutor(workers, device=device)
    from pipelines.executors.ray_data import RayExecutor

    return RayExecutor(workers, device=device)
