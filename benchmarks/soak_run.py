"""One run of the soak: made-up documents, an encoder that sleeps, workers of the local executor, a server.

    python -m benchmarks.soak_run --url URL --name NAME --documents N --cost SECONDS --workers W

Prints a line of JSON whenever documents are committed, and the report as the last one. With --warm N it first does N
documents under another name, so that workers have started when the time begins.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import cast

from benchmarks.soak_parts import CHUNKING, Corpus, SleepingConfig, load
from kvembed import EncoderConfig
from pipelines import ingest
from pipelines.executors.local import LocalExecutor


def main() -> None:
    """Run, and say how far it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--cost", type=float, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--warm", type=int, default=0)
    options = parser.parse_args()
    encoder = load(cast("EncoderConfig", SleepingConfig(options.cost)), "cpu")
    with LocalExecutor(options.workers, device="cpu", load=load) as executor:
        if options.warm:
            ingest(Corpus(options.warm), options.url, "warm", encoder, chunking=CHUNKING, executor=executor)
        started = time.perf_counter()
        report = ingest(
            Corpus(options.documents),
            options.url,
            options.name,
            encoder,
            chunking=CHUNKING,
            executor=executor,
            wait=60,
            progress=_tell,
        )
        seconds = time.perf_counter() - started
    added, broken = report.documents_added, report.documents_quarantined
    print(json.dumps({"report": {"added": added, "quarantined": broken, "seconds": seconds}}), flush=True)


def _tell(stage: str, done: int, total: int | None) -> None:
    if stage == "embed":
        sys.stdout.write(json.dumps({"done": done, "total": total}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
