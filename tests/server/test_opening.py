"""A URL becomes a store: which way, with which key, and what anyone can learn of that key."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from qdrant_client import QdrantClient

from pipelines import Document, ingest, open_collection, plan, status, store_server
from pipelines.errors import StoreError, StoreUnavailableError
from pipelines.retrying import Retrying, RetryPolicy
from pipelines.settings import Settings
from pipelines.store import open_store
from pipelines.store_server import connect
from tests.pipelines.fake_encoder import FakeEncoder
from tests.server.double import Certificate, Double

KEY = "s3cret-Key-of-this-server"
ROOT = Path(__file__).parents[2]
WAYS = [pytest.param(False, id="rest"), pytest.param(True, id="grpc")]


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def opened(slept: list[float]) -> Iterator[Callable[..., QdrantClient]]:
    """Connect as `open_store` does, and note every pause."""
    clients: list[QdrantClient] = []

    def connected(double: Double, **settings: object) -> QdrantClient:
        given = {"qdrant_grpc_port": double.grpc_port, "qdrant_timeout": 10, **settings}
        retrying = Retrying(RetryPolicy(), sleep=slept.append).for_opening()
        client = connect(double.url, Settings(**given), retrying)  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything, as behind some firewalls."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def by_grpc(client: QdrantClient) -> bool:
    return bool(client.init_options["prefer_grpc"])


def test_open_speaks_grpc_where_its_port_answers(
    double: Double, opened: Callable[..., QdrantClient], slept: list[float]
) -> None:
    assert by_grpc(opened(double))
    assert [call.method for call in double.calls] == ["get_aliases", "info"]
    assert slept == []


def test_open_speaks_rest_where_that_is_asked_for(double: Double, opened: Callable[..., QdrantClient]) -> None:
    assert not by_grpc(opened(double, qdrant_prefer_grpc=False))
    assert [call.method for call in double.calls] == ["get_aliases", "info"]


def test_open_without_grpc_costs_one_attempt(
    double: Double, opened: Callable[..., QdrantClient], slept: list[float], closed_port: int
) -> None:
    assert not by_grpc(opened(double, qdrant_grpc_port=closed_port))
    assert slept == []


def test_open_behind_a_firewall_costs_one_probe(
    double: Double,
    opened: Callable[..., QdrantClient],
    slept: list[float],
    silent_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timeout of a call is a minute; a port that says nothing must not take that long."""
    monkeypatch.setattr(store_server, "_PROBE", 0.2)
    assert not by_grpc(opened(double, qdrant_grpc_port=silent_port, qdrant_timeout=600))
    assert slept == []


def test_open_with_a_port_of_its_own_guesses_no_grpc(double: Double, opened: Callable[..., QdrantClient]) -> None:
    assert not by_grpc(opened(double, qdrant_grpc_port=None))


def test_open_while_the_server_is_busy_waits_a_little(
    double: Double, opened: Callable[..., QdrantClient], slept: list[float]
) -> None:
    double.faults.at(0, "unavailable", among="calls", times=3)
    assert not by_grpc(opened(double))
    assert len(slept) == 2


def test_open_of_a_server_that_is_away_gives_up_soon(
    double: Double, opened: Callable[..., QdrantClient], slept: list[float]
) -> None:
    """A wrong address must not take minutes to be called wrong."""
    double.faults.always("drop_before")
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        opened(double)
    assert 1 <= len(slept) <= 4
    assert sum(slept) <= 10


@pytest.mark.parametrize("grpc", WAYS)
@pytest.mark.parametrize("key", [None, "another"])
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_open_with_the_wrong_key_asks_once(
    opened: Callable[..., QdrantClient], slept: list[float], key: str | None, grpc: bool
) -> None:
    with Double(key=KEY) as double:
        with pytest.raises(StoreError, match=r"does not accept this key; set KVEMBED_QDRANT_API_KEY") as caught:
            opened(double, qdrant_api_key=key, qdrant_prefer_grpc=grpc)
        assert len(double.calls) == 1
    assert slept == []
    assert key is None or key not in str(caught.value)


def test_open_with_a_key_over_http_warns(opened: Callable[..., QdrantClient]) -> None:
    with Double(key=KEY) as double, pytest.warns(UserWarning, match="insecure connection"):
        opened(double, qdrant_api_key=KEY)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
@pytest.mark.parametrize("grpc", WAYS)
def test_key_is_in_nothing_that_a_run_says_or_stores(
    grpc: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither logs, down to the last byte of a library, nor messages, reports and files may quote it."""
    caplog.set_level(logging.DEBUG)
    documents = [Document("d", "Words of a text.", "d.txt", metadata={"a": 1})]
    said: list[object] = []
    with Double(str(tmp_path / "held"), key=KEY) as double:
        for name, value in (double.environment(grpc=grpc) | {"KVEMBED_QDRANT_RETRIES": "0"}).items():
            monkeypatch.setenv(name, value)
        url = double.url.replace("://", f"://user:{KEY}@") + f"/?api_key={KEY}"
        said += [plan(documents, None, "notes", FakeEncoder()), ingest(documents, None, "notes", FakeEncoder())]
        with open_store() as store:
            said += [store, vars(store), store.label, store.client, Settings()]
        with open_collection(None, "notes", encoder=FakeEncoder()) as collection:
            said += [collection.search("words"), collection.verify(), collection.manifest, vars(collection)]
        said += [status(None), *refusals(double, url)]
        assert double.backend.bugs == []
        assert len([call for call in double.calls if call.write]) > 5  # the key was accepted
    captured = capfd.readouterr()
    said += [captured.out, captured.err, *caplog.messages, *(vars(record) for record in caplog.records)]
    assert [text for text in map(repr, said) if KEY in text] == []
    held = [file for file in (tmp_path / "held").rglob("*") if file.is_file()]
    assert len(held) > 3
    assert [file for file in held if KEY.encode() in file.read_bytes()] == []


def refusals(double: Double, url: str) -> Iterator[str]:
    """Everything that a failing call puts into its message and its traceback."""
    for kind in ("denied", "bad_request", "drop_before"):
        double.faults.always(kind)  # type: ignore[arg-type]
        for store in (None, url):
            with pytest.raises((StoreError, StoreUnavailableError)) as caught:
                status(store)
            yield "".join(traceback.format_exception(caught.value))
            yield repr(vars(caught.value))
        double.faults.clear()
    double.stop()
    with pytest.raises(StoreUnavailableError) as away:
        status(url)
    yield "".join(traceback.format_exception(away.value))
    double.start()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for the loopback interface that nobody trusts unasked."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return Certificate(str(folder / "certificate.pem"), str(folder / "key.pem"))


def test_open_over_tls_speaks_both_ways_and_warns_of_nothing(certificate: Certificate) -> None:
    """In a process of its own: gRPC reads whom it trusts once per process."""
    code = (
        "from pipelines.settings import Settings\n"
        "from pipelines.store import open_store\n"
        "for _ in range(2):\n"
        "    with open_store(Settings().qdrant_url) as store: print(store.client.init_options['prefer_grpc'])\n"
        "    import os; os.environ['KVEMBED_QDRANT_PREFER_GRPC'] = 'false'\n"
    )
    with Double(key=KEY, certificate=certificate) as double:
        environment = {
            **os.environ,
            **double.environment(),
            "SSL_CERT_FILE": certificate.certificate,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": certificate.certificate,
        }
        command = [sys.executable, "-W", "error::UserWarning", "-c", code]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
        )
        assert double.url.startswith("https://")
        assert done.stdout.split() == ["True", "False"], done.stderr
        assert double.backend.count("info") == 2


def test_open_with_a_certificate_that_nobody_trusts_is_refused_at_once(
    certificate: Certificate, opened: Callable[..., QdrantClient], slept: list[float]
) -> None:
    with Double(certificate=certificate) as double:
        with pytest.raises(StoreError, match=r"no secure connection to https://127.*certificate"):
            opened(double, qdrant_prefer_grpc=False)
        assert double.calls == []
    assert slept == []


def test_open_over_https_of_a_server_that_speaks_http_is_refused_at_once(double: Double, slept: list[float]) -> None:
    url = double.url.replace("http://", "https://")
    with pytest.raises(StoreError, match=re.escape(f"no secure connection to {url}") + ".*check http against https"):
        connect(url, Settings(), Retrying(RetryPolicy(), sleep=slept.append))
    assert slept == []


def test_open_of_something_else_that_answers_is_refused_at_once(slept: list[float]) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StoreError, match="does not speak as a Qdrant does"):
            connect(f"http://127.0.0.1:{server.server_port}", Settings(), Retrying(RetryPolicy(), sleep=slept.append))
        server.shutdown()
    assert slept == []
