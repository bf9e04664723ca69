"""Documents and vectors that every tool is given: a file of short texts, and a vector made from a text's hash."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DIMENSION = 256
CHANGED_EVERY = 100
"""One document in so many is another one in the second edition."""

_WORDS = 80  # a text of one chunk, whatever cuts it


def write_corpus(path: Path, count: int, *, edition: int = 0) -> None:
    """Write `count` documents, one JSON object per line."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 11))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = random.Random(number).choices(vocabulary, k=_WORDS)
            if edition and number % CHANGED_EVERY == 0:
                words[-1] = f"edition{edition}"
            file.write(json.dumps({"id": f"handbook/page-{number:06}.md", "text": " ".join(words)}) + "\n")


def read_corpus(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text of each document, from the start."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield record["id"], record["text"]


def vector_of(text: str) -> NDArray[np.float32]:
    """Return a unit vector, (DIMENSION,), that costs microseconds and is the same for the same text."""
    digest = hashlib.shake_256(text.encode("utf-8")).digest(DIMENSION)
    vector = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) - np.float32(127.5)
    return vector / np.float32(np.linalg.norm(vector))
