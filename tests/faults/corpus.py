"""Three editions of a small corpus, and a process that indexes one of them (`python -m tests.faults.corpus`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from pipelines import ChunkingConfig, Document, ingest
from tests.pipelines.fake_encoder import FakeEncoder, FakeEncoding

CHUNKING = ChunkingConfig(max_tokens=12)


def edition(number: int) -> list[Document]:
    """Every edition adds, drops and edits documents; some stay as they are."""
    found = []
    for index in range(60):
        if index % 5 == number:
            continue
        version = number if index % 3 == 0 else 0
        sections = [f"Document{index} Part{part} Version{version if part % 2 else 0}" for part in range(8)]
        text = "\n\n".join(f"{section} has a paragraph of its own." for section in sections)
        found.append(Document(f"d{index}", text, f"d{index}.txt"))
    return found


class SlowEncoder(FakeEncoder):
    """Takes a millisecond per text, so that there is a run to kill on a fast machine too."""

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        time.sleep(0.001 * len(texts))
        return super().encode_counted(texts, role)


def announce(stage: str, done: int, total: int | None) -> None:
    if stage == "plan":
        sys.stdout.write("writing\n")
        sys.stdout.flush()


if __name__ == "__main__":
    ingest(
        edition(int(sys.argv[2])),
        sys.argv[1],
        "notes",
        SlowEncoder(),
        chunking=CHUNKING,
        delete="all",
        progress=announce,
    )
