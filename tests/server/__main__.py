"""`python -m tests.server`: the double as a process of its own, until it is told to end."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading

from tests.server.double import Double
from tests.server.faults import KINDS


def main() -> None:
    """Listen, say where in one line of JSON on stdout, and wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="HTTP; 0 takes any")
    parser.add_argument("--grpc-port", type=int, default=0, help="gRPC; 0 takes any")
    parser.add_argument("--folder", default=":memory:", help="keep what it holds here")
    parser.add_argument("--key", help="demand this API key")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND@N[@SECONDS]", help=f"KIND is one of {', '.join(KINDS)}"
    )
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Double(given.folder, key=given.key, rest_port=given.port, grpc_port=given.grpc_port) as double:
        for fault in given.fault:
            kind, number, *seconds = fault.split("@")
            double.faults.at(int(number), kind, seconds=float(seconds[0]) if seconds else 0.0)
        sys.stdout.write(json.dumps({"url": double.url, "grpc_port": double.grpc_port}) + "\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
