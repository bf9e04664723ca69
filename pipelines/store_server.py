"""A URL as a served store: which way it is spoken to, whether it takes the key, and whether it is new enough."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, grpc

from pipelines.errors import StoreError, StoreUnavailableError
from pipelines.store_errors import translated

if TYPE_CHECKING:
    from pipelines.retrying import Retrying
    from pipelines.settings import Settings

_OLDEST = (1, 16)
_PROBE = 3.0  # seconds for a first answer by gRPC; a firewall that swallows the port gives none at all
_REST_PORT, _GRPC_PORT = 6333, 6334
# A channel that lost its server tries again after up to two minutes, and fails every call until then: as long as all
# retries of a call together. Milliseconds.
_RECONNECT = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 5000}


def connect(url: str, settings: Settings, retrying: Retrying) -> QdrantClient:
    """Return a client that the server has answered once.

    Args:
        url: `http(s)://` URL.
        settings: Key, timeout, and whether gRPC is to be tried.
        retrying: For an opening. gRPC gets one attempt: where it fails REST may answer at once.

    Raises:
        StoreError: the URL or the key cannot be used, or the server is too old or refuses the key.
        StoreUnavailableError: no server answers there.
    """
    port = _grpc_port(url, settings) if settings.qdrant_prefer_grpc else None
    if port is not None:
        try:
            return _by_grpc(url, port, settings)
        except StoreUnavailableError:
            pass
    return _by_rest(url, settings, retrying)


def without_credentials(url: str) -> str:
    """Return a URL as a message may show it."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _by_grpc(url: str, port: int, settings: Settings) -> QdrantClient:
    client, label = _client(url, settings, grpc_port=port), without_credentials(url)
    try:
        with translated(label):
            client.grpc_collections.ListAliases(grpc.ListAliasesRequest(), timeout=_PROBE)
            _check_version(client.info().version, label)
    except BaseException:
        client.close()
        raise
    return client


def _by_rest(url: str, settings: Settings, retrying: Retrying) -> QdrantClient:
    client, label = _client(url, settings), without_credentials(url)

    def answer() -> str:
        with translated(label):
            client.get_aliases()  # the version alone is told without a key
            return client.info().version

    try:
        _check_version(retrying.call(answer), label)
    except BaseException:
        client.close()
        raise
    return client


def _client(url: str, settings: Settings, *, grpc_port: int | None = None) -> QdrantClient:
    try:
        return QdrantClient(
            url=url,
            api_key=_key(settings),
            prefer_grpc=grpc_port is not None,
            grpc_port=grpc_port if grpc_port is not None else _GRPC_PORT,
            grpc_options=dict(_RECONNECT),
            timeout=settings.qdrant_timeout,
            check_compatibility=False,
        )
    except ValueError as error:
        raise StoreError(f"store {without_credentials(url)!r} is not a usable URL: {error}") from error


def _key(settings: Settings) -> str | None:
    """Return the key; one that no header carries is refused here, because what refuses it later quotes it."""
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise StoreError(
            "KVEMBED_QDRANT_API_KEY has white space around it, or a line break or a character outside ASCII in it; "
            "set it to the key alone"
        )
    return key


def _grpc_port(url: str, settings: Settings) -> int | None:
    """Guess no port beside a port that is not Qdrant's own: another server may listen there, and be told the key."""
    if settings.qdrant_grpc_port is not None:
        return settings.qdrant_grpc_port
    try:
        port = urlsplit(url).port
    except ValueError:
        return None  # named when the client is made
    return _GRPC_PORT if port in (None, _REST_PORT) else None


def _check_version(version: str, label: str) -> None:
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers and numbers < _OLDEST:
        raise StoreError(
            f"Qdrant at {label} is version {version}; 1.16 or newer is needed, "
            "because the manifest lives in the collection's metadata"
        )
