"""Every way in which a store refuses ends in one message that says what to do."""

from __future__ import annotations

import errno
import json
import re
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import grpc
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.api.points_api import jsonable_encoder
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from pipelines.errors import (
    JSON,
    LeaseLostError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreUnavailableError,
    TransientError,
)
from pipelines.settings import Settings
from pipelines.store import batches, json_bytes, open_store, sized_batches
from pipelines.store_errors import store_error, translated
from pipelines.store_server import _grpc_port


def test_open_store_folder_is_made_and_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "store"
    with open_store(folder) as store:
        assert store.embedded
        store.client.create_collection("a", vectors_config={})
    with open_store(str(folder)) as store:
        assert store.client.collection_exists("a")
        assert store.label == str(folder)


def test_open_store_held_by_another_process_names_the_way_out(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pipelines.store import open_store\n"
        f"store = open_store({str(tmp_path)!r})\nprint('open', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match=r"in use by another process.*docker compose up"):
            open_store(tmp_path)
        process.kill()


def test_open_store_held_by_a_plain_client_is_locked_too(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "store"))
    try:
        with pytest.raises(StoreLockedError, match="another client in this one"):
            open_store(tmp_path / "store")
    finally:
        client.close()
    open_store(tmp_path / "store").close()


def test_open_store_locks_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qdrant loads, then locks: without a lock before that, a reader would write back what is stale."""
    first = open_store(tmp_path)
    monkeypatch.setattr(QdrantClient, "__init__", lambda *_, **__: pytest.fail("the store was read before the lock"))
    with pytest.raises(StoreLockedError):
        open_store(tmp_path)
    first.close()


def test_open_store_folder_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \(thesis.docx\).*new or empty folder"):
        open_store(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.docx"]


def test_open_store_path_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for create in (True, False):
        with pytest.raises(StoreError, match="is a file; give a folder"):
            open_store(tmp_path / "file", create=create)


def test_open_store_without_create_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*kvembed index"):
        open_store(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_open_store_first_write_cut_in_half_is_mended(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("")
    with open_store(tmp_path) as store:
        assert store.client.get_collections().collections == []


def test_open_store_damaged_catalogue_is_named_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{broken")
    for _ in range(2):  # the first failure must not keep the lock
        with pytest.raises(StoreError, match=r"damaged: meta.json is not JSON"):
            open_store(tmp_path)
    assert (tmp_path / "meta.json").read_text() == "{broken"


@pytest.mark.parametrize("meta", ['{"name":"x"}', "[]", '{"collections": [], "aliases": {}}', "null"])
def test_open_store_foreign_catalogue_is_refused_and_untouched(tmp_path: Path, meta: str) -> None:
    (tmp_path / "meta.json").write_text(meta)
    for create in (True, False):
        with pytest.raises(StoreError, match=r"meta\.json is not a Qdrant store's; give a new or empty folder"):
            open_store(tmp_path, create=create)
    assert [entry.name for entry in tmp_path.iterdir()] == ["meta.json"]


@pytest.mark.parametrize("config", ['{"vectors": 7}', '{"nonsense": 1}', "5"])
def test_open_store_catalogue_with_a_foreign_collection_is_damaged(tmp_path: Path, config: str) -> None:
    (tmp_path / "meta.json").write_text(f'{{"collections": {{"a": {config}}}, "aliases": {{}}}}')
    for _ in range(2):  # the first failure must not keep the lock
        with pytest.raises(StoreError, match=r"is damaged .*; restore it, or index into a new folder"):
            open_store(tmp_path)


@pytest.mark.parametrize("pickled", [b"", b"rubbish", b"cnowhere_at_all\nThing\n.", b"\x80\x04K\x01."])
def test_open_store_damaged_point_is_named(tmp_path: Path, pickled: bytes) -> None:
    """Qdrant keeps points as pickles, and what a broken one raises depends on where it broke."""
    with open_store(tmp_path) as store:
        store.create("a", None, None)
    with sqlite3.connect(tmp_path / "collection" / "a" / "storage.sqlite") as connection:
        connection.execute("INSERT INTO points VALUES ('x', ?)", (pickled,))
    connection.close()
    with pytest.raises(StoreError, match=r"is damaged .*; restore it, or index into a new folder"):
        open_store(tmp_path)


def test_open_store_other_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="neither a folder nor an http"):
        open_store("redis://localhost:1")


@pytest.mark.parametrize("address", ["localhost:6333", "10.0.0.5:6333/", "db.example.com:443/qdrant", "[::1]:6333"])
def test_open_store_address_without_scheme_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=re.escape(f"did you mean http://{address}?")):
        open_store(address)
    assert list(tmp_path.iterdir()) == []


def test_open_store_memory_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"':memory:' would be gone with the process; give a folder"):
        open_store(":memory:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["./localhost:6333", Path("localhost:6333"), "notes:old", "2026-11-22"])
def test_open_store_folder_with_a_colon_can_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | Path
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store(folder).close()
    assert (tmp_path / folder / "meta.json").is_file()


@pytest.mark.parametrize("preferred", ["true", "false"])
def test_open_store_nothing_listens_is_transient_and_hides_the_password(
    monkeypatch: pytest.MonkeyPatch, preferred: str
) -> None:
    monkeypatch.setenv("KVEMBED_QDRANT_PREFER_GRPC", preferred)
    monkeypatch.setenv("KVEMBED_QDRANT_GRPC_PORT", "9")
    monkeypatch.setenv("KVEMBED_QDRANT_TIMEOUT", "1")
    monkeypatch.setenv("KVEMBED_QDRANT_RETRIES", "0")
    with pytest.raises(StoreUnavailableError, match=r"http://127.0.0.1:9/db cannot be reached") as caught:
        open_store("http://user:secret@127.0.0.1:9/db?api_key=secret")
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, TransientError)


def test_open_store_client_passed_in_stays_open() -> None:
    client = QdrantClient(":memory:")
    with open_store(client) as store, open_store(store) as again:
        assert again.client is client
    client.create_collection("still", vectors_config={})


def test_store_create_what_is_there_already_is_no_error() -> None:
    with open_store(QdrantClient(":memory:")) as store:
        store.create("once", None, {"first": True})
        store.create("once", None, {"first": False})
        assert store.client.get_collection("once").config.metadata == {"first": True}


def test_store_create_raced_by_another_process_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one makes the collection between our look and our creation."""
    client = QdrantClient(":memory:")
    made = client.create_collection

    def late(name: str, **kwargs: object) -> None:
        made(name, vectors_config={})
        raise UnexpectedResponse(409, "Conflict", b"already exists", httpx.Headers())

    monkeypatch.setattr(client, "create_collection", late)
    with open_store(client) as store:
        store.create("raced", None, None)
        assert client.collection_exists("raced")


def test_store_create_that_is_refused_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")

    def refuse(name: str, **kwargs: object) -> None:
        raise UnexpectedResponse(400, "Bad request", b"no", httpx.Headers())

    monkeypatch.setattr(client, "create_collection", refuse)
    with open_store(client) as store, pytest.raises(StoreError, match="refused the request"):
        store.create("refused", None, None)


def test_store_guarded_asks_before_every_call_and_leaves_the_store_open() -> None:
    client, asked = QdrantClient(":memory:"), []
    with open_store(client) as store:
        with store.guarded(lambda: asked.append("outer")).guarded(lambda: asked.append("inner")) as guarded:
            guarded.call(client.get_collections)
            guarded.borrowed().create("c", None, None)
        store.call(client.get_collections)
    assert asked == ["outer", "inner"] * 3


def test_store_guarded_that_may_not_write_does_not() -> None:
    client = QdrantClient(":memory:")

    def lost() -> None:
        raise LeaseLostError("c", "another run")

    with open_store(client) as store, pytest.raises(LeaseLostError):
        store.guarded(lost).call(client.create_collection, "c", vectors_config={})
    assert not client.collection_exists("c")


@pytest.mark.parametrize("key", ["two\nlines", "trailing\n", " spaced", "schlüssel-geheim"])
def test_open_store_key_that_no_header_carries_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("KVEMBED_QDRANT_API_KEY", key)
    with pytest.raises(StoreError, match=r"KVEMBED_QDRANT_API_KEY has white space") as caught:
        open_store("https://127.0.0.1:9")
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "setting", "port"),
    [
        ("http://db:6333", None, 6334),
        ("https://db", None, 6334),
        ("http://db:7000", None, None),
        ("https://db:443/qdrant", None, None),
        ("http://db:7000", 7001, 7001),
    ],
)
def test_grpc_port_is_guessed_only_beside_qdrants_own(url: str, setting: int | None, port: int | None) -> None:
    """Whoever listens at 6334 beside another port may be another server, and would be told the key."""
    assert _grpc_port(url, Settings(qdrant_grpc_port=setting)) == port


def test_open_store_none_takes_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVEMBED_STORE", str(tmp_path / "from-settings"))
    with open_store() as store:
        assert store.label == str(tmp_path / "from-settings")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFullError, "make room and run again"),
        (sqlite3.OperationalError("database or disk is full"), StoreFullError, "make room"),
        (PermissionError(errno.EACCES, "denied"), StoreError, "make the folder writable"),
        (OSError(errno.EROFS, "read-only"), StoreError, "make the folder writable"),
        (sqlite3.OperationalError("attempt to write a readonly database"), StoreError, "writable"),
        (sqlite3.DatabaseError("database disk image is malformed"), StoreError, "is damaged"),
        (UnexpectedResponse(401, "no", b"", httpx.Headers()), StoreError, "does not accept this key"),
        (UnexpectedResponse(400, "bad", b"why", httpx.Headers()), StoreError, "refused the request"),
        (UnexpectedResponse(503, "busy", b"", httpx.Headers()), StoreUnavailableError, "asks to wait"),
        (UnexpectedResponse(429, "slow", b"", httpx.Headers()), StoreUnavailableError, "asks to wait"),
        (ResponseHandlingException(httpx.ConnectError("refused")), StoreUnavailableError, "refused"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), StoreUnavailableError, "refused"),
    ],
)
def test_store_error_says_what_to_do(error: Exception, kind: type[Exception], said: str) -> None:
    found = store_error("./store", error)
    assert type(found) is kind
    assert said in str(found)
    assert "./store" in str(found)


class _Rpc(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode, details: str = "details", retry_after: str | None = None) -> None:
        self._code = code
        self._details = details
        self._trailing = [Metadatum("retry-after", retry_after)] if retry_after else []

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> list[Metadatum]:
        return self._trailing


class Metadatum(NamedTuple):
    """As gRPC hands it out."""

    key: str
    value: str


_Rpc.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, StoreUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, StoreUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, StoreUnavailableError),
        (grpc.StatusCode.INTERNAL, StoreUnavailableError),
        (grpc.StatusCode.UNAUTHENTICATED, StoreError),
        (grpc.StatusCode.INVALID_ARGUMENT, StoreError),
        (grpc.StatusCode.NOT_FOUND, StoreError),
        (grpc.StatusCode.OUT_OF_RANGE, StoreError),
    ],
)
def test_store_error_of_grpc_is_transient_only_where_a_retry_helps(
    code: grpc.StatusCode, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught, translated("http://host"):
        raise _Rpc(code)
    assert type(caught.value) is kind


def test_store_error_of_a_message_too_large_is_not_called_busy() -> None:
    """gRPC gives both the same status; the message is as large at the next attempt."""
    said = "Received message larger than max (40000000 vs. 33554432)"
    found = store_error("http://host", _Rpc(grpc.StatusCode.RESOURCE_EXHAUSTED, said))
    assert type(found) is StoreError


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ResourceExhaustedResponse("slow", 7), 7),
        (UnexpectedResponse(503, "busy", b"", httpx.Headers({"retry-after": "1.5"})), 1.5),
        (UnexpectedResponse(429, "busy", b"", httpx.Headers()), None),
        (UnexpectedResponse(503, "busy", b"", httpx.Headers({"retry-after": "soon"})), None),
        (UnexpectedResponse(503, "busy", b"", httpx.Headers({"retry-after": in_an_hour()})), 3600),
        (UnexpectedResponse(503, "", b"", httpx.Headers({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})), 0),
        (_Rpc(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after="0.5"), 0.5),
        (_Rpc(grpc.StatusCode.RESOURCE_EXHAUSTED), None),
        (ResponseHandlingException(httpx.ReadTimeout("late")), None),
    ],
)
def test_store_error_keeps_the_time_that_the_server_asks_for(error: Exception, seconds: float | None) -> None:
    found = store_error("http://host", error)
    assert isinstance(found, StoreUnavailableError)
    assert found.retry_after == (None if seconds is None else pytest.approx(seconds, abs=1800))


@pytest.mark.parametrize("said", ["0.5", "Wed, 21 Oct 2015 07:28:00 GMT", "rubbish"])
def test_store_error_of_a_retry_after_that_the_client_cannot_read_is_transient(said: str) -> None:
    """qdrant-client reads whole seconds, and raises an error of its own over anything else that HTTP allows."""
    with pytest.raises(QdrantException) as caught:
        ResourceExhaustedResponse("slow", said)  # type: ignore[arg-type]
    found = store_error("http://host", caught.value)
    assert isinstance(found, StoreUnavailableError)
    assert found.retry_after == {"0.5": 0.5, "rubbish": None}.get(said, 0.0)


def not_json() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_json(b"<html>")
    return caught.value


def refused_certificate() -> httpx.ConnectError:
    error = httpx.ConnectError("certificate verify failed: self-signed certificate")
    error.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ResponseHandlingException(not_json()), "does not speak as a Qdrant does"),
        (ResponseHandlingException(refused_certificate()), "no secure connection to http://host can be made"),
        (ResponseHandlingException(httpx.UnsupportedProtocol("ftp")), "no request can be sent"),
        (ResponseHandlingException(RuntimeError("the client has been closed")), "no request can be sent"),
        (UnexpectedResponse(413, "too large", b"", httpx.Headers()), "refuses requests of this size"),
        (UnexpectedResponse(404, "none", b"", httpx.Headers()), "refused the request"),
    ],
)
def test_store_error_that_stays_is_terminal(error: Exception, said: str) -> None:
    found = store_error("http://host", error)
    assert type(found) is StoreError
    assert said in str(found)


def test_store_error_of_a_connection_that_broke_in_the_handshake_is_transient() -> None:
    error = httpx.ConnectError("EOF occurred in violation of protocol")
    error.__cause__ = ssl.SSLEOFError("EOF occurred")
    assert isinstance(store_error("http://host", ResponseHandlingException(error)), StoreUnavailableError)


def test_batches_cut_and_end() -> None:
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []


def test_sized_batches_end_at_whichever_comes_first() -> None:
    sizes = [1, 1, 1, 5, 9, 2, 3, 1]
    assert list(sized_batches(sizes, int, 3, 6)) == [[1, 1, 1], [5], [9], [2, 3, 1]]
    assert list(sized_batches(sizes, int, 100, 100)) == [sizes]
    assert list(sized_batches([], int, 3, 6)) == []


@given(st.lists(st.integers(0, 20)), st.integers(1, 5), st.integers(1, 30))
def test_sized_batches_keep_every_item_in_order_and_within_both_limits(items: list[int], count: int, size: int) -> None:
    cut = list(sized_batches(items, int, count, size))
    assert [item for batch in cut for item in batch] == items
    assert all(len(batch) <= count and (sum(batch) <= size or len(batch) == 1) for batch in cut)


@pytest.mark.parametrize("value", ["", 'naïve \x00 " \\ 東京 🙂', {"a": [1, None, True, -0.1e-7]}])
def test_json_bytes_is_at_least_what_the_client_sends(value: JSON) -> None:
    sent = jsonable_encoder(models.SetPayload(payload={"v": value}))
    assert len(sent.encode()) <= json_bytes({"v": value}) + len('{"payload":}')


def test_json_bytes_of_any_mapping_and_sequence() -> None:
    assert json_bytes(MappingProxyType({"a": (1, MappingProxyType({}))})) == json_bytes({"a": [1, {}]})


def test_store_catalogue_of_a_new_store_is_qdrants_own(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    assert json.loads((tmp_path / "meta.json").read_text())["collections"] == {}


@pytest.fixture
def answer_as(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], str]]:
    """Run an HTTP server on the loopback interface that calls itself a Qdrant of some version."""
    servers: list[ThreadingHTTPServer] = []

    def start(version: str, status: int) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = {"title": "qdrant", "version": version}
                if self.path == "/aliases":
                    body = {"result": {"aliases": []}, "status": "ok", "time": 0}  # type: ignore[dict-item]
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    monkeypatch.setenv("KVEMBED_QDRANT_PREFER_GRPC", "false")
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_open_store_server_that_answers_is_open(answer_as: Callable[[str, int], str]) -> None:
    with open_store(answer_as("1.16.0", 200)) as store:
        assert not store.embedded
        assert store.label.startswith("http://127.0.0.1:")


def test_open_store_server_without_room_for_the_manifest_is_refused(answer_as: Callable[[str, int], str]) -> None:
    with pytest.raises(StoreError, match=r"is version 1\.15\.4; 1\.16 or newer is needed"):
        open_store(answer_as("1.15.4", 200))


def test_open_store_server_that_refuses_the_key_names_the_setting(answer_as: Callable[[str, int], str]) -> None:
    with pytest.raises(StoreError, match=r"does not accept this key; set KVEMBED_QDRANT_API_KEY"):
        open_store(answer_as("1.16.0", 401))


@pytest.mark.parametrize(
    "error",
    [
        UnexpectedResponse(500, "Internal", b"Service internal error: No space left on device", httpx.Headers()),
        UnexpectedResponse(507, "Insufficient Storage", b"", httpx.Headers()),
        _Rpc(grpc.StatusCode.INTERNAL, details="No space left on device (os error 28)"),
    ],
)
def test_store_error_of_a_server_without_space_says_so(error: Exception) -> None:
    assert isinstance(store_error("http://host", error), StoreFullError)
