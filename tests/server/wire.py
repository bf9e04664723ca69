"""A wire that can be cut; a gRPC server of its own accord leaves no call without an answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_CHUNK = 1 << 16


class Wire:
    """Carries bytes between a port and the server behind it.

    Args:
        target: Port of the server, on the loopback interface.
        port: Port to listen at; 0 takes any.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self, peer: str) -> None:
        """Break one connection with a reset.

        Args:
            peer: As the server knows it, such as "ipv4:127.0.0.1:40000".
        """
        with self._lock:
            pair = self._open.pop(int(peer.rpartition(":")[2]), None)
        if pair is not None:
            _break(*pair)

    def close(self) -> None:
        """Take no more connections and break those that are open."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            pairs, self._open = list(self._open.values()), {}
        for pair in pairs:
            _break(*pair)

    def _listen(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = far.getsockname()[1]
            with self._lock:
                self._open[number] = (near, far)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink, number), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(_CHUNK):
                sink.sendall(received)
        with self._lock:
            pair = self._open.pop(number, None)
        if pair is not None:
            _break(*pair)


def _break(near: socket.socket, far: socket.socket) -> None:
    for end in (near, far):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it; closing alone does not
        end.close()
