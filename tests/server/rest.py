"""The server's HTTP side: requests as qdrant-client sends them, each as a call of one of its methods."""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from qdrant_client import models

from tests.server.backend import LARGEST_REQUEST, Backend, Cut, Refusal

Arguments = dict[str, Any]

_INSERT: TypeAdapter[Any] = TypeAdapter(models.PointInsertOperations)
_SELECTOR: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)


def _upsert(body: Any) -> Arguments:
    given = _INSERT.validate_python(body)
    points = given.points if isinstance(given, models.PointsList) else given.batch
    return {"points": points, "update_filter": given.update_filter, "update_mode": given.update_mode}


def _create(body: Any) -> Arguments:
    given = models.CreateCollection.model_validate(body)
    return {
        "vectors_config": given.vectors,
        "sparse_vectors_config": given.sparse_vectors,
        "quantization_config": given.quantization_config,
        "metadata": given.metadata,
    }


def _update(body: Any) -> Arguments:
    given = models.UpdateCollection.model_validate(body)
    return {"vectors_config": given.vectors, "metadata": given.metadata}


def _index(body: Any) -> Arguments:
    given = models.CreateFieldIndex.model_validate(body)
    return {"field_name": given.field_name, "field_schema": given.field_schema}


def _retrieve(body: Any) -> Arguments:
    given = models.PointRequest.model_validate(body)
    return {"ids": given.ids, "with_payload": _or(given.with_payload, True), "with_vectors": given.with_vector}


def _scroll(body: Any) -> Arguments:
    given = models.ScrollRequest.model_validate(body)
    return {
        "scroll_filter": given.filter,
        "limit": _or(given.limit, 10),
        "offset": given.offset,
        "order_by": given.order_by,
        "with_payload": _or(given.with_payload, True),
        "with_vectors": given.with_vector,
    }


def _count(body: Any) -> Arguments:
    given = models.CountRequest.model_validate(body)
    return {"count_filter": given.filter, "exact": given.exact}


def _query(body: Any) -> Arguments:
    return query_arguments(models.QueryRequest.model_validate(body))


def query_arguments(given: models.QueryRequest) -> Arguments:
    return {
        "query": given.query,
        "using": given.using,
        "prefetch": given.prefetch,
        "query_filter": given.filter,
        "search_params": given.params,
        "limit": _or(given.limit, 10),
        "offset": given.offset,
        "with_payload": _or(given.with_payload, False),
        "with_vectors": _or(given.with_vector, False),
        "score_threshold": given.score_threshold,
    }


def _payload(body: Any) -> Arguments:
    given = models.SetPayload.model_validate(body)
    chosen = given.points if given.points is not None else models.FilterSelector(filter=given.filter)
    return {"payload": given.payload, "points": chosen}


def _nothing(body: Any) -> Arguments:
    return {}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


_C = "/collections/([^/]+)"
ROUTES: list[tuple[str, str, str, Callable[[Any], Arguments]]] = [
    ("GET", "/", "info", _nothing),
    ("GET", "/aliases", "get_aliases", _nothing),
    ("GET", "/collections", "get_collections", _nothing),
    (
        "POST",
        "/collections/aliases",
        "update_collection_aliases",
        lambda body: {"change_aliases_operations": models.ChangeAliasesOperation.model_validate(body).actions},
    ),
    ("GET", f"{_C}/aliases", "get_collection_aliases", _nothing),
    ("GET", f"{_C}/exists", "collection_exists", _nothing),
    ("GET", _C, "get_collection", _nothing),
    ("PUT", _C, "create_collection", _create),
    ("PATCH", _C, "update_collection", _update),
    ("DELETE", _C, "delete_collection", _nothing),
    ("PUT", f"{_C}/index", "create_payload_index", _index),
    ("PUT", f"{_C}/points", "upsert", _upsert),
    ("POST", f"{_C}/points", "retrieve", _retrieve),
    ("POST", f"{_C}/points/delete", "delete", lambda body: {"points_selector": _SELECTOR.validate_python(body)}),
    ("PUT", f"{_C}/points/payload", "overwrite_payload", _payload),
    ("POST", f"{_C}/points/payload", "set_payload", _payload),
    (
        "POST",
        f"{_C}/points/batch",
        "batch_update_points",
        lambda body: {"update_operations": models.UpdateOperations.model_validate(body).operations},
    ),
    ("POST", f"{_C}/points/scroll", "scroll", _scroll),
    ("POST", f"{_C}/points/count", "count", _count),
    ("POST", f"{_C}/points/query", "query_points", _query),
    (
        "POST",
        f"{_C}/points/query/batch",
        "query_batch_points",
        lambda body: {"requests": models.QueryRequestBatch.model_validate(body).searches},
    ),
]


def _result(method: str, found: Any) -> Any:
    """Put a result into the form that HTTP gives it."""
    if method == "scroll":
        return {"points": found[0], "next_page_offset": found[1]}
    return {"exists": found} if method == "collection_exists" else found


class RestHandler(BaseHTTPRequestHandler):
    """Answers on one connection, request after request."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    server: RestServer

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client is gone
            self.close_connection = True

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self._read(length)
        try:
            method, arguments = self._call(raw)  # of a request too large, which is refused unread, without its body
            found = self.server.backend.handle(method, arguments, key=self.headers.get("api-key"), size=length)
        except Refusal as refusal:
            self._refuse(refusal)
        except Cut:
            self._cut()
        else:
            body = found if method == "info" else {"result": _result(method, found), "status": "ok", "time": 0.0}
            self._send(200, to_json(body))

    def _read(self, length: int) -> bytes | None:
        if length <= LARGEST_REQUEST:
            return self.rfile.read(length)
        while length > 0:  # or the client learns of a broken connection before it learns why
            length -= len(self.rfile.read(min(length, 1 << 20)))
        return None

    def _call(self, raw: bytes | None) -> tuple[str, Arguments]:
        path = urlsplit(self.path).path
        for verb, pattern, method, decode in ROUTES:
            match = re.fullmatch(pattern, path)
            if verb == self.command and match:
                named = {"collection_name": unquote(match[1])} if match.groups() else {}
                if raw is None:
                    return method, named
                try:
                    return method, named | decode(json.loads(raw) if raw else {})
                except (ValidationError, ValueError) as error:
                    raise Refusal(400, f"Format error in JSON body: {error}") from error
        error = LookupError(f"{self.command} {path} is not one of the double's")
        self.server.backend.bugs.append(error)
        raise Refusal(404, str(error))

    def _refuse(self, refusal: Refusal) -> None:
        headers = {} if refusal.retry_after is None else {"Retry-After": f"{refusal.retry_after:g}"}
        self._send(refusal.status, json.dumps({"status": {"error": str(refusal)}, "time": 0.0}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _cut(self) -> None:
        """Break the connection as a server that dies does: with a reset, and nothing before it."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class RestServer(ThreadingHTTPServer):
    """Listens on the loopback interface."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, backend: Backend, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.backend = backend
        super().__init__(("127.0.0.1", port), RestHandler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave connections that broke alone, and note everything else."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.backend.bugs.append(error)
