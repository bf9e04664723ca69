"""What Qdrant, its transports and SQLite raise -> what a caller can act on."""

from __future__ import annotations

import errno
import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from pipelines.errors import PipelineError, StoreError, StoreFullError, StoreUnavailableError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_TRANSIENT_GRPC = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
)
_UNREADABLE = (AttributeError, EOFError, ImportError, LookupError, TypeError, ValueError, pickle.UnpicklingError)
_DENIED_GRPC = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@contextmanager
def translated(label: str) -> Iterator[None]:
    """Turn what a call to the store raises into a `PipelineError` that names the store.

    Args:
        label: The store as a message may show it: a folder, or a URL without a key.

    Raises:
        StoreUnavailableError: the server is away, overloaded, or asks to wait.
        StoreFullError: no space is left under an embedded store.
        StoreError: anything that a repetition would not mend.
    """
    try:
        yield
    except (
        ResponseHandlingException,
        UnexpectedResponse,
        ResourceExhaustedResponse,
        httpx.HTTPError,
        grpc.RpcError,
        sqlite3.Error,
        OSError,
    ) as error:
        raise store_error(label, error) from error


@contextmanager
def readable(label: str) -> Iterator[None]:
    """Turn what Qdrant raises over files it cannot read into a `StoreError`; it has no error of its own for them.

    Args:
        label: The folder.

    Raises:
        StoreError: the catalogue or a point is not what Qdrant writes.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        raise StoreError(f"store {label} is damaged: meta.json is not JSON ({error}); restore it") from error
    except _UNREADABLE as error:
        said = f"{type(error).__name__}: {_first_line(error)}"
        raise _damaged(label, said) from error


def store_error(label: str, error: Exception) -> PipelineError:
    """Name the `PipelineError` that an exception of the store stands for."""
    if isinstance(error, ResponseHandlingException | httpx.HTTPError | ResourceExhaustedResponse):
        return _unavailable(label, _cause(error))
    if isinstance(error, UnexpectedResponse):
        return _of_status(label, error.status_code or 0, _first_line(error))
    if isinstance(error, grpc.RpcError):
        return _of_grpc(label, error)
    if isinstance(error, OSError):
        return _of_system(label, error)
    return _of_sqlite(label, str(error))


def _of_status(label: str, status: int, said: str) -> PipelineError:
    if status in _TRANSIENT_STATUS:
        return _unavailable(label, said)
    if status in (401, 403):
        return _denied(label)
    return StoreError(f"Qdrant at {label} refused the request: {said}")


def _of_grpc(label: str, error: grpc.RpcError) -> PipelineError:
    code = error.code() if isinstance(error, grpc.Call) else None
    said = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
    if code in _TRANSIENT_GRPC:
        return _unavailable(label, said)
    if code in _DENIED_GRPC:
        return _denied(label)
    return StoreError(f"Qdrant at {label} refused the request: {said}")


def _of_system(label: str, error: OSError) -> PipelineError:
    if error.errno in _FULL:
        return _full(label)
    if error.errno in _UNWRITABLE:
        return _unwritable(label)
    if isinstance(error, ConnectionError | TimeoutError):
        return _unavailable(label, str(error))
    return StoreError(f"store {label}: {error}")


def _of_sqlite(label: str, said: str) -> PipelineError:
    if "full" in said:
        return _full(label)
    if "readonly" in said or "unable to open" in said:
        return _unwritable(label)
    if "malformed" in said or "not a database" in said:
        return _damaged(label, said)
    return StoreError(f"store {label}: {said}")


def _damaged(label: str, said: str) -> StoreError:
    return StoreError(f"store {label} is damaged ({said}); restore it, or index into a new folder")


def _unavailable(label: str, said: str) -> PipelineError:
    return StoreUnavailableError(
        f"Qdrant at {label} cannot be reached or asks to wait ({said}); "
        "check that it runs and try again, what was committed stays"
    )


def _denied(label: str) -> PipelineError:
    return StoreError(f"Qdrant at {label} does not accept this key; set KVEMBED_QDRANT_API_KEY to one that may write")


def _full(label: str) -> PipelineError:
    return StoreFullError(
        f"no space is left for the store {label}; make room and run again, "
        "what was committed stays and the next run continues"
    )


def _unwritable(label: str) -> PipelineError:
    return StoreError(
        f"store {label} cannot be opened for writing; make the folder writable for this user, "
        "or choose another with --store"
    )


def _cause(error: Exception) -> str:
    source = error.args[0] if error.args else error
    return _first_line(source) or type(error).__name__


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
