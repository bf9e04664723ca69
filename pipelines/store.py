"""Path, URL or client -> an open store.

An embedded store is for one process at a time and one writing thread. Qdrant keeps its points there as Python
pickles, so opening a folder runs what is in it: open only folders that you trust.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from qdrant_client import QdrantClient, models
from qdrant_client.local.qdrant_local import QdrantLocal
from qdrant_client.qdrant_remote import QdrantRemote

from pipelines.embedded import safe_change, settle, write_ahead
from pipelines.errors import StoreError, StoreNotFoundError
from pipelines.retrying import Retrying, RetryPolicy
from pipelines.settings import Settings, load_settings
from pipelines.store_errors import readable, translated
from pipelines.store_folder import lock_folder, locked, prepare, refuse_foreign
from pipelines.store_server import connect, without_credentials
from pipelines.telemetry import store_call

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

    from pipelines.errors import JSON

StoreLike: TypeAlias = "str | os.PathLike[str] | QdrantClient | Store"
P = ParamSpec("P")
T = TypeVar("T")

REQUEST_BYTES = 16 * 1024 * 1024
"""Most that one request takes; a server accepts 32 MiB, and this leaves room for what is estimated."""

_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d+(/.*)?")


class Store:
    """An open Qdrant, embedded or served, and the name it goes by in messages.

    Attributes:
        client: Qdrant's own client.
        label: Folder, or URL without credentials.
        embedded: Points live in this process and on its disk.
        address: URL that it was opened by, if it was.
    """

    def __init__(
        self,
        client: QdrantClient,
        label: str,
        *,
        owned: bool,
        lock: TextIO | None = None,
        retrying: Retrying | None = None,
        address: str | None = None,
    ) -> None:
        self.client = client
        self.label = label
        self.embedded = isinstance(client._client, QdrantLocal)
        self.address = address
        self._owned = owned
        self._grouped = self.embedded and owned  # a client that was passed in keeps the ways of its owner
        self._lock = lock
        self._retrying = retrying or Retrying(RetryPolicy())
        self._check: Callable[[], None] | None = None

    def call(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one operation of the client; where a server does not answer, again, as the settings allow.

        Raises:
            StoreError: the store refuses.
            StoreUnavailableError: the store may answer later; it has been waited for.
        """

        def attempt() -> T:
            safely = safe_change(self.client, operation) if self._grouped else nullcontext()
            with store_call(self.client, operation, args), translated(self.label), safely:
                return operation(*args, **kwargs)

        if not self.embedded:
            return self._retrying.call(attempt, self._check)
        if self._check is not None:
            self._check()
        return attempt()

    def create(
        self,
        collection: str,
        vectors: models.VectorParams | None,
        metadata: Mapping[str, JSON] | None,
        *,
        quantization: models.QuantizationConfig | None = None,
    ) -> None:
        """Make a collection of unnamed vectors, or of none, unless there is one of that name.

        A creation whose answer was lost is repeated, and another process may make the same collection at the same
        moment: both find it there, and mean just that.
        """
        if self.call(self.client.collection_exists, collection):
            return
        try:
            self.call(
                self.client.create_collection,
                collection,
                vectors_config=vectors if vectors is not None else {},
                quantization_config=quantization,
                metadata=None if metadata is None else dict(metadata),
            )
        except StoreError:
            if not self.call(self.client.collection_exists, collection):
                raise
        if self._grouped:
            self.call(write_ahead, self.client, collection)

    def settle(self, collection: str) -> None:
        """Wait until what was written to a collection survives a loss of power; a server has waited already."""
        if self._grouped:
            self.call(settle, self.client, collection)

    def close(self) -> None:
        """Release the store; a client that was passed in stays open."""
        if self._owned:
            self.client.close()
        if self._lock is not None:
            self._lock.close()  # and with it the lock
            self._lock = None

    def borrowed(self) -> Store:
        """Return the same store for someone else's `with` statement, which leaves it open."""
        other = Store(self.client, self.label, owned=False, retrying=self._retrying, address=self.address)
        other._grouped, other._check = self._grouped, self._check
        return other

    def guarded(self, check: Callable[[], None]) -> Store:
        """Return the same store, borrowed, with a check before every attempt of every call.

        Args:
            check: Raises when the call must not be made.
        """
        other = self.borrowed()
        earlier = self._check

        def both() -> None:
            if earlier is not None:
                earlier()
            check()

        other._check = both
        return other

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def sized_batches(
    items: Iterable[T], size_of: Callable[[T], int], count: int, size: int = REQUEST_BYTES
) -> Iterator[list[T]]:
    """Cut items into lists of at most `count` items and at most `size` bytes; a larger item has a list of its own.

    Args:
        items: In order.
        size_of: Bytes that an item takes in a request.
        count: At least 1.
        size: What a request may take.
    """
    batch: list[T] = []
    taken = 0
    for item in items:
        needed = size_of(item)
        if batch and (len(batch) >= count or taken + needed > size):
            yield batch
            batch, taken = [], 0
        batch.append(item)
        taken += needed
    if batch:
        yield batch


def json_bytes(value: JSON) -> int:
    """Return how many bytes a value takes in a request, at most; by gRPC it takes fewer."""
    return len(json.dumps(value, ensure_ascii=False, default=_plain).encode("utf-8"))


def _plain(value: Mapping[str, JSON] | Sequence[JSON]) -> dict[str, JSON] | list[JSON]:
    return dict(value) if isinstance(value, Mapping) else list(value)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut items into lists of at most `size`, as requests to a store are."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def open_store(store: StoreLike | None = None, *, create: bool = True) -> Store:
    """Open a store.

    Args:
        store: Folder of an embedded store, `http(s)://` URL of a server, a client, which the caller keeps and
            closes, or a store already open, which is left to its opener as well. None takes the one of the settings.
        create: Make an embedded store where there is none; otherwise its absence is an error.

    Raises:
        StoreLockedError: another process, or another client in this one, holds the folder.
        StoreError: the folder is not a store, cannot be written, or the server is too old or refuses the key.
        StoreUnavailableError: no server answers there.
    """
    settings = load_settings()
    if isinstance(store, Store):
        return store.borrowed()
    if isinstance(store, QdrantClient):
        return Store(store, _client_label(store), owned=False, retrying=Retrying(_policy(settings)))
    place = os.fspath(store if store is not None else settings.default_store())
    if place.startswith(("http://", "https://")):
        retrying = Retrying(_policy(settings))
        client = connect(place, settings, retrying.for_opening())
        return Store(client, without_credentials(place), owned=True, retrying=retrying, address=place)
    if "://" in place:
        raise StoreError(
            f"store {place!r} is neither a folder nor an http(s):// URL; give for example ./.kvembed "
            "or http://localhost:6333"
        )
    if not isinstance(store, os.PathLike):
        _refuse_address(place)
    return _open_folder(Path(place).expanduser(), create=create)


def _refuse_address(place: str) -> None:
    """Take no address for the name of a folder, which would be made in silence and filled."""
    if _ADDRESS.fullmatch(place):
        raise StoreError(
            f"store {place!r} is neither a folder nor an http(s):// URL; did you mean http://{place}? "
            f"a folder of that name is ./{place}"
        )
    if place == ":memory:":
        raise StoreError(
            "store ':memory:' would be gone with the process; give a folder or an http(s):// URL, "
            "from Python also QdrantClient(':memory:')"
        )


def open_store_to_look(store: StoreLike | None = None) -> Store:
    """Open a store as `open_store` does, but let an embedded one that is not there read as an empty one."""
    try:
        return open_store(store, create=False)
    except StoreNotFoundError as error:
        return Store(QdrantClient(":memory:"), error.label, owned=True)


def _open_folder(folder: Path, *, create: bool) -> Store:
    label = str(folder)
    with translated(label):
        refuse_foreign(folder, create=create)
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
    try:
        with translated(label):
            prepare(folder)
            # Qdrant says so each time a large folder is opened; the report of a run says it once, with the way out.
            warnings.filterwarnings("ignore", message="Local mode is not recommended", category=UserWarning)
            with readable(label):
                client = QdrantClient(path=label)
            write_ahead(client)
    except RuntimeError as error:
        lock.close()
        raise locked(label) from error
    except BaseException:
        lock.close()
        raise
    return Store(client, label, owned=True, lock=lock)


def _client_label(client: QdrantClient) -> str:
    inner = client._client
    if isinstance(inner, QdrantLocal):
        return inner.location
    return without_credentials(inner.rest_uri) if isinstance(inner, QdrantRemote) else "the given client"


def _policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(settings.qdrant_retries, settings.qdrant_retry_seconds)
