"""What a flow adds to a run that has next to nothing to do.

    python -m benchmarks.flow_overhead [--repeats 5] [--json]

One document goes into an embedded store by `kvembed index`, then the same command finds nothing changed: plainly, with
`--flow` where no Prefect server is (a thread of the run serves the API), and with `--flow` beside a server that runs.
Each is a process of its own; the three take turns, and figures are medians of wall-clock seconds. A first run of each
kind, which makes the schema of the run history, is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

KINDS = ("plain", "flow", "flow, server")
STEPS = ("one document", "nothing changed")


def main() -> None:
    """Measure, and print a table or JSON."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--repeats", type=int, default=5)
    given.add_argument("--json", action="store_true")
    arguments = given.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.repeats)
    if arguments.json:
        print(json.dumps({"repeats": arguments.repeats, "seconds": found}))
        return
    print(f"{'':<18}" + "".join(f"{kind:>14}" for kind in KINDS))
    for step in STEPS:
        seconds = [statistics.median(found[kind][step]) for kind in KINDS]
        print(f"{step:<18}" + "".join(f"{value:>12.1f} s" for value in seconds))
    added = [statistics.median(found[kind][STEPS[1]]) - statistics.median(found["plain"][STEPS[1]]) for kind in KINDS]
    print(f"{'the flow adds':<18}" + "".join(f"{value:>12.1f} s" for value in added))


def measure(folder: Path, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every run, by kind and step.

    Args:
        folder: Empty.
        repeats: Runs of each kind that count.
    """
    (folder / "documents").mkdir()
    (folder / "documents" / "one.txt").write_text("gzip compresses files")
    found: dict[str, dict[str, list[float]]] = {kind: {step: [] for step in STEPS} for kind in KINDS}
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVEMBED_"))}
    bare |= {"KVEMBED_CACHE_DIR": str(folder / "cache"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with prefect_server(bare | {"PREFECT_HOME": str(folder / "server")}) as url:
        environments = {"plain": bare, "flow": bare, "flow, server": bare | {"PREFECT_API_URL": url}}
        for repeat in range(repeats + 1):
            for kind in KINDS:
                shutil.rmtree(folder / "store", ignore_errors=True)
                for step in STEPS:
                    seconds = run(folder, environments[kind], flow=kind != "plain")
                    if repeat:
                        found[kind][step].append(round(seconds, 3))
    return found


def run(folder: Path, environment: dict[str, str], *, flow: bool) -> float:
    """Run the command, and return how long it took."""
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "index", str(folder / "documents")]
    command += ["-c", "one", "--store", str(folder / "store"), "--layers", "2", *(["--flow"] if flow else [])]
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


@contextmanager
def prefect_server(environment: dict[str, str]) -> Iterator[str]:
    """Run a Prefect server on the loopback interface, and yield the URL of its API."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--no-ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/api/health"):
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("the Prefect server did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    """Tell whether a server answers well."""
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    main()
