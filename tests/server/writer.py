"""`python -m tests.server.writer URL EDITION WAIT`: a process that indexes an edition of the small corpus.

It prints `writing` whenever it has embedded some chunks, and waits for a line, or the end, of its input; at the end it
prints `done`, or the name of its error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines import PipelineError, ingest
from tests.faults.corpus import CHUNKING, edition
from tests.pipelines.fake_encoder import FakeEncoder, FakeEncoding


class Patient(FakeEncoder):
    """Waits to be told to go on."""

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        found = super().encode_counted(texts, role)
        if any("Document" in text for text in texts):  # no canary
            say("writing")
            sys.stdin.readline()
        return found


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    url, number, wait = sys.argv[1:]
    try:
        ingest(edition(int(number)), url, "notes", Patient(), chunking=CHUNKING, delete="all", wait=float(wait))
        say("done")
    except PipelineError as error:
        say(type(error).__name__)
