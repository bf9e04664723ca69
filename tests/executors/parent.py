"""`python -m tests.executors.parent STORE EDITION SECONDS`: indexes an edition with two workers.

It prints the numbers of its processes once they embed, and `done` at the end.
"""

from __future__ import annotations

import sys

from pipelines import ingest
from pipelines.executors.local import LocalExecutor
from tests.executors.light import LightConfig, LightEncoder, load
from tests.faults.corpus import CHUNKING, edition


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    place, number, seconds = sys.argv[1:]
    said = False
    with LocalExecutor(2, device="cpu", load=load) as executor:

        def progress(stage: str, done: int, total: int | None) -> None:
            global said
            if stage == "embed" and done and not said:
                said = True
                say("embedding", *executor.process_ids)

        encoder = LightEncoder(LightConfig(seconds=float(seconds)))
        ingest(edition(int(number)), place, "notes", encoder, chunking=CHUNKING, executor=executor, progress=progress)
    say("done")
