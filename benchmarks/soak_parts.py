"""What a soak indexes and by what: documents made up as they are read, and an encoder that sleeps.

In a module of its own, by whose name a worker finds the function that loads the encoder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from kvembed import EncoderConfig, KVEncoder
from kvembed.config import fingerprint_of
from pipelines import ChunkingConfig, Document

DIMENSION = 64
CHUNKING = ChunkingConfig(max_tokens=64)
_WORDS = "amber basalt cedar delta ember fjord granite harbour island jasper kelp lichen".split()


@dataclass(frozen=True, slots=True)
class SleepingConfig:
    """Identity of an encoder that sleeps; the cost is none of it."""

    seconds: float = 0.0
    model: str = "soak/sleeping"
    layers: tuple[int, ...] = (1,)
    prefix_bias: float = 1.0
    transform: None = None
    revision: None = None

    def identity(self) -> dict[str, object]:
        """Return what a vector depends on."""
        known = {key: value for key, value in asdict(self).items() if key != "seconds"}
        hashes = {f"{part}_sha256": "soak" for part in ("weights", "tokenizer", "architecture")}
        return {**known, "layers": list(self.layers), **hashes}

    def fingerprint(self) -> str:
        """Return a hash of it."""
        return fingerprint_of(self.identity())  # type: ignore[arg-type]

    def transform_entry(self) -> None:
        """Return no transform."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """As `KVEncoder.encode_counted` returns it."""

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated_tokens: NDArray[np.int64]


class SleepingEncoder:
    """A vector from a hash of the text, after some time asleep for each text."""

    dimension = DIMENSION
    document_budget = 200
    document_overhead = 4
    document_copies = 1
    devices = (SimpleNamespace(type="cpu"),)

    def __init__(self, config: SleepingConfig) -> None:
        self.config = config
        self.tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    @property
    def fingerprint(self) -> str:
        """Of the configuration."""
        return self.config.fingerprint()

    def identity(self) -> dict[str, object]:
        """Of the configuration."""
        return self.config.identity()

    def encode_document(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors at once: canaries are not what costs."""
        return np.stack([self._vector(text) for text in texts])

    encode_query = encode_document

    def encode_counted(self, texts: Sequence[str], role: str) -> Encoding:
        """Sleep, then return vectors."""
        time.sleep(self.config.seconds * len(texts))
        tokens = np.array([len(text.split()) for text in texts])
        return Encoding(self.encode_document(texts), tokens, np.zeros(len(texts), dtype=np.int64))

    def _vector(self, text: str) -> NDArray[np.float32]:
        raw = hashlib.shake_128(text.encode()).digest(DIMENSION)
        vector = np.frombuffer(raw, dtype=np.uint8).astype(np.float32) - 127.5
        return vector / np.linalg.norm(vector)


def load(config: EncoderConfig, device: str) -> KVEncoder:
    """Return the encoder of a worker."""
    return cast("KVEncoder", SleepingEncoder(cast("SleepingConfig", config)))


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of one chunk each, made as they are read, always the same."""

    count: int

    @property
    def description(self) -> str:
        """What a report calls it."""
        return f"{self.count} made-up documents"

    def documents(self) -> Iterator[Document]:
        """Make them."""
        for number in range(self.count):
            words = " ".join(_WORDS[(number * step + number // 7) % len(_WORDS)] for step in (1, 5, 7, 11))
            yield Document(f"doc-{number:07}", f"Number {number}: {words}.", f"made/{number}.txt")
