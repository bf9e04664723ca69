"""What can go wrong between documents and a collection.

```
PipelineError
├── TerminalError                 never retry: the same call fails the same way
│   ├── SourceError               nothing readable where the source points
│   ├── StoreError                the store refuses, and will go on refusing
│   │   ├── StoreNotFoundError
│   │   ├── StoreLockedError
│   │   ├── StoreFullError
│   │   ├── CollectionNotFoundError
│   │   ├── ForeignCollectionError
│   │   ├── NoPreviousGenerationError
│   │   └── InvalidCollectionNameError
│   ├── ChunkingError             a chunking that no document can be cut by
│   ├── EncoderMismatchError      the collection was filled in another way
│   ├── ModelUnavailableError     the exact encoder of a collection is not here
│   ├── DeletionGuardError        too much would be deleted
│   ├── TooManyQuarantinedError   the run is going wrong
│   ├── RebuildError              a new generation is not fit to take the old one's place
│   └── ManifestError             the collection's own description is unusable
└── TransientError                the same call may succeed later
    ├── StoreUnavailableError
    ├── CollectionBusyError       another run is writing
    └── LeaseLostError            another run took over
```

A flow retries `TransientError` and nothing else. One bad document is no error
of a run: it is quarantined and reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"


class PipelineError(Exception):
    """Base of everything `pipelines` raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what the error says and not how it was made, so that it can come from another process."""
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(kind: type[PipelineError], arguments: tuple[object, ...], attributes: dict[str, object]) -> PipelineError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class TerminalError(PipelineError):
    """Retrying cannot help; the message says what can."""


class TransientError(PipelineError):
    """The same call may succeed later."""


class SourceError(TerminalError):
    """A source that cannot be listed; never taken for an empty one."""


class ChunkingError(TerminalError, ValueError):
    """No document can be cut this way; the message says which number to change."""


class StoreError(TerminalError):
    """The store refuses, and will go on refusing until someone acts."""


class StoreNotFoundError(StoreError):
    """There is no embedded store in the folder."""

    def __init__(self, label: str) -> None:
        self.label = label
        super().__init__(f"there is no store at {label}; create one with `kvembed index SOURCE -c NAME`")


class StoreLockedError(StoreError):
    """Another process holds the embedded store."""


class StoreFullError(StoreError):
    """The disk under the embedded store is full."""


class CollectionNotFoundError(StoreError):
    """No collection of that name in the store, or none behind the name any more."""

    def __init__(self, name: str, known: Sequence[str] = (), *, gone: str | None = None) -> None:
        self.name = name
        self.known = tuple(known)
        self.gone = gone
        if gone is not None:
            super().__init__(
                f"collection {name!r} was found as {gone!r}, which is no longer in this store; "
                f"build it again with `kvembed index SOURCE -c {name}`"
            )
            return
        listed = ", ".join(repr(other) for other in self.known[:10]) or "none"
        super().__init__(
            f"no collection {name!r} in this store; it has: {listed}; create it with `kvembed index SOURCE -c {name}`"
        )


class ForeignCollectionError(StoreError):
    """A collection of that name exists and was not made by kvembed."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(
            f"collection {name!r} was not made by kvembed ({reason}); nothing was changed; "
            "choose another name, remove that collection yourself, or pass `--adopt`, which takes over an empty "
            "collection, or an alias once ours is complete"
        )


class NoPreviousGenerationError(StoreError):
    """There is nothing to roll back to."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"collection {name!r} has no previous generation; one is kept after an encoder or a chunking changed, "
            "until `kvembed prune` removes it"
        )


class InvalidCollectionNameError(StoreError):
    """A name that Qdrant, or a file system below it, refuses."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(
            f"collection name {name!r} is not usable: {reason}; "
            "use letters, digits, '-', '_' and '.', for example 'handbook'"
        )


class EncoderMismatchError(TerminalError):
    """A collection was filled by another encoder or chunking than the one given.

    Attributes:
        differences: field -> (value stored with the collection, value given).
    """

    def __init__(self, collection: str, differences: Mapping[str, tuple[JSON, JSON]], advice: str) -> None:
        self.collection = collection
        self.differences = dict(differences)
        listed = "; ".join(
            f"{field}: stored {stored!r}, given {given!r}" for field, (stored, given) in self.differences.items()
        )
        super().__init__(f"collection {collection!r} was filled differently: {listed}; {advice}")


class ModelUnavailableError(TerminalError):
    """None of the models at hand has the hash stored with the collection."""


class DeletionGuardError(TerminalError):
    """A run would delete more documents than the guard allows; nothing was written."""

    def __init__(
        self, collection: str, doomed: int, known: int, first_ids: Sequence[str], share: float, count: int
    ) -> None:
        self.collection = collection
        self.doomed = doomed
        self.known = known
        self.first_ids = tuple(first_ids)
        self.share = share
        self.count = count
        shown = ", ".join(repr(document_id) for document_id in self.first_ids)
        super().__init__(
            f"{doomed} of {known} documents ({doomed / max(known, 1):.0%}) of collection "
            f"{collection!r} are gone from the source and would be deleted, first {shown}; "
            f"one run may delete up to {share:.0%} and {count} documents unasked, and never all; "
            "nothing was changed; if that is meant pass `--delete all`, or raise `--delete-share` and "
            "`--delete-count`; to keep them pass `--delete none`"
        )


class TooManyQuarantinedError(TerminalError):
    """More documents than allowed could not be indexed; what was committed before stays."""

    def __init__(self, collection: str, count: int, allowed: int, first: Sequence[str]) -> None:
        self.collection = collection
        self.count = count
        self.allowed = allowed
        self.first = tuple(first)
        super().__init__(
            f"{count} documents of this run into collection {collection!r} could not be indexed, where "
            f"{allowed} are allowed, first: {'; '.join(self.first)}; what was committed stays; "
            "mend the cause and run again, or raise `--max-quarantined`"
        )


class RebuildError(TerminalError):
    """A new generation of a collection cannot be built, or is not fit to take the old one's place."""


class ManifestError(TerminalError):
    """A collection's manifest is damaged, or newer than this version reads."""


class StoreUnavailableError(TransientError):
    """The server did not answer, or asked to come back later.

    Attributes:
        retry_after: Seconds it asked to wait; None when it named no time.
        said: What came in place of an answer, in one line.
    """

    def __init__(self, message: str, retry_after: float | None = None, said: str | None = None) -> None:
        self.retry_after = retry_after
        self.said = message if said is None else said
        super().__init__(message)


class CollectionBusyError(TransientError):
    """Another run holds the collection's write lease."""

    def __init__(self, collection: str, holder: str) -> None:
        self.collection = collection
        self.holder = holder
        super().__init__(
            f"collection {collection!r} is being written by {holder}; nothing was changed; "
            "wait until that run is done, or pass `--wait SECONDS`"
        )


class LeaseLostError(TransientError):
    """The write lease went to another run while this one was silent; it stopped before its next write."""

    def __init__(self, collection: str, holder: str) -> None:
        self.collection = collection
        self.holder = holder
        super().__init__(
            f"the write lease of collection {collection!r} went to {holder} while this run was silent; "
            "it stopped before its next write, what it committed stays"
        )


__all__ = [
    "JSON",
    "ChunkingError",
    "CollectionBusyError",
    "CollectionNotFoundError",
    "DeletionGuardError",
    "EncoderMismatchError",
    "ForeignCollectionError",
    "InvalidCollectionNameError",
    "LeaseLostError",
    "ManifestError",
    "ModelUnavailableError",
    "NoPreviousGenerationError",
    "PipelineError",
    "RebuildError",
    "SourceError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StoreUnavailableError",
    "TerminalError",
    "TooManyQuarantinedError",
    "TransientError",
]
