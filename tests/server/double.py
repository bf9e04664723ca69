"""A Qdrant server for tests, in this process: the client's local mode behind Qdrant's two protocols, on the loopback.

It applies, refuses and fails as a server does, and keeps to none of a server's speed.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import grpc
from qdrant_client import QdrantClient

from pipelines.retrying import Retrying, RetryPolicy
from pipelines.store import Store
from tests.server.backend import Backend
from tests.server.faults import Call, FaultPlan
from tests.server.rest import RestServer
from tests.server.rpc import RpcServer


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of a certificate and its key, both PEM."""

    certificate: str
    key: str


class Double:
    """A server that listens until it is closed.

    Args:
        location: Folder, or ":memory:".
        key: API key it demands.
        rest_port: Of HTTP; 0 takes any.
        grpc_port: Of gRPC; 0 takes any.
        certificate: Speak TLS with this one.

    Attributes:
        backend: What it holds, what it was asked, and what goes wrong on purpose.
    """

    def __init__(
        self,
        location: str = ":memory:",
        *,
        key: str | None = None,
        rest_port: int = 0,
        grpc_port: int = 0,
        certificate: Certificate | None = None,
    ) -> None:
        self.backend = Backend(location, key)
        self._key = key
        self._ports = (rest_port, grpc_port)
        self._certificate = certificate
        self._scheme = "https" if certificate else "http"
        self.start()

    @property
    def faults(self) -> FaultPlan:
        """What goes wrong on purpose."""
        return self.backend.faults

    @property
    def calls(self) -> list[Call]:
        """What it was asked so far."""
        return self.backend.calls

    @property
    def url(self) -> str:
        """Address of its HTTP side."""
        return f"{self._scheme}://127.0.0.1:{self._rest.server_port}"

    @property
    def grpc_port(self) -> int:
        """Port of its gRPC side."""
        return self._rpc.port

    def start(self) -> None:
        """Listen again, at the same ports as before."""
        self._rest = RestServer(self.backend, self._ports[0], self._tls())
        self._rpc = RpcServer(self.backend, self._ports[1], self._credentials())
        self._ports = (self._rest.server_port, self._rpc.port)
        listening = threading.Thread(target=self._rest.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        listening.start()

    def stop(self) -> None:
        """Go away; what it holds stays."""
        self._rest.shutdown()
        self._rest.server_close()
        self._rpc.close()

    def close(self) -> None:
        """Go away for good."""
        self.stop()
        self.backend.close()

    def environment(self, *, grpc: bool = True) -> dict[str, str]:
        """Return the settings of a process that uses this server."""
        settings = {
            "KVEMBED_QDRANT_URL": self.url,
            "KVEMBED_QDRANT_GRPC_PORT": str(self.grpc_port),
            "KVEMBED_QDRANT_PREFER_GRPC": str(grpc).lower(),
        }
        return settings | ({"KVEMBED_QDRANT_API_KEY": self._key} if self._key else {})

    def client(self, *, grpc: bool, timeout: int = 20) -> QdrantClient:
        """Connect to it in one of its two ways."""
        return QdrantClient(
            url=self.url,
            prefer_grpc=grpc,
            grpc_port=self.grpc_port,
            api_key=self._key,
            timeout=timeout,
            check_compatibility=False,
            verify=self._certificate is not None,  # or each client reads all authorities for a connection without TLS
        )

    def store(
        self,
        *,
        grpc: bool,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], None] = lambda seconds: None,
    ) -> Store:
        """Open it as a store that repeats its calls without a pause.

        Args:
            grpc: Speak gRPC, else REST.
            policy: Another one than the default.
            sleep: Told of every pause.
        """
        retrying = Retrying(policy or RetryPolicy(), sleep=sleep)
        return Store(self.client(grpc=grpc), self.url, owned=True, retrying=retrying)

    def __enter__(self) -> Double:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tls(self) -> ssl.SSLContext | None:
        if self._certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        return context

    def _credentials(self) -> grpc.ServerCredentials | None:
        if self._certificate is None:
            return None
        with open(self._certificate.certificate, "rb") as chain, open(self._certificate.key, "rb") as key:
            return grpc.ssl_server_credentials([(key.read(), chain.read())])
