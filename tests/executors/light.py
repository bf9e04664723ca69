"""The fake encoder without torch, which processes start quickly with; some texts end or stop the process.

Only a worker is ended: the words are harmless in the process that made the configuration.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from kvembed.config import fingerprint_of

DIMENSION = 32

FATAL = "Fatal"
"""Ends the process, always."""
FRAGILE = "Fragile"
"""Ends the process that embeds it first."""
STUCK = "Stuck"
"""Suspends the process that embeds it first."""
POISON = "Poison"
"""Gets a vector of NaN."""


@dataclass(frozen=True)
class LightConfig:
    """How a light encoder behaves; nothing of it but `bias` is part of what a collection knows.

    Attributes:
        bias: Told apart by collections.
        seconds: That a text takes.
        folder: Where it is noted which words were met, and by which process.
        maker: Process that is never ended.
        everything: Ends workers whatever they embed.
    """

    bias: float = 1.0
    seconds: float = 0.0
    folder: str = ""
    maker: int = field(default_factory=os.getpid)
    everything: bool = False
    model: str = "light/hashed-words"
    layers: tuple[int, ...] = (2,)
    transform: None = None

    def identity(self) -> dict[str, object]:
        return {
            "model": self.model,
            "revision": None,
            "layers": list(self.layers),
            "prefix_bias": self.bias,
            "dtype": "float32",
            "weights_sha256": "weights-1",
            "tokenizer_sha256": "tokenizer-1",
            "architecture_sha256": "architecture-1",
        }


@dataclass(frozen=True)
class LightEncoding:
    vectors: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated_tokens: NDArray[np.int64]


class LightEncoder:
    """Bags of hashed words.

    Attributes:
        texts: Encoded in this process so far, canaries included.
    """

    dimension = DIMENSION
    document_budget = 200
    document_overhead = 5
    document_copies = 1
    devices = (SimpleNamespace(type="cpu"),)

    def __init__(self, config: LightConfig | None = None) -> None:
        self.config = config or LightConfig()
        self.texts: list[str] = []
        self.tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.identity())

    def identity(self) -> dict[str, object]:
        return self.config.identity()

    def encode_document(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_counted(texts, "document").vectors

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_vector(text) for text in texts])

    def encode_counted(self, texts: Sequence[str], role: str) -> LightEncoding:
        self.texts.extend(texts)
        if self.config.folder and os.getpid() != self.config.maker:
            self._suffer(texts)
        time.sleep(self.config.seconds * len(texts))
        tokens = np.array([len(text.split()) + self.document_overhead for text in texts])
        return LightEncoding(np.stack([_vector(text) for text in texts]), tokens, np.zeros(len(texts), dtype=np.int64))

    def _suffer(self, texts: Sequence[str]) -> None:
        with (Path(self.config.folder) / f"texts-{os.getpid()}").open("a") as file:
            file.writelines(f"{text!r}\n" for text in texts)
        together = " ".join(texts).split()
        if self.config.everything or FATAL in together:
            os.kill(os.getpid(), signal.SIGKILL)
        for word, number in ((FRAGILE, signal.SIGKILL), (STUCK, signal.SIGSTOP)):
            met = Path(self.config.folder) / word
            if word in together and not met.exists():
                met.touch()
                os.kill(os.getpid(), number)


def load(config: LightConfig, device: str) -> LightEncoder:
    """What a worker loads by."""
    return LightEncoder(config)


def load_badly(config: LightConfig, device: str) -> LightEncoder:
    """A model that is not there."""
    raise FileNotFoundError("no weights here")


def load_and_die(config: LightConfig, device: str) -> LightEncoder:
    """A model that is too large."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def load_another(config: LightConfig, device: str) -> LightEncoder:
    """A model whose files changed."""
    return LightEncoder(LightConfig(bias=config.bias + 1))


def _vector(text: str) -> NDArray[np.float32]:
    if POISON in text:
        return np.full(DIMENSION, np.nan, dtype=np.float32)
    vector = np.full(DIMENSION, 0.01, dtype=np.float32)
    for word in text.lower().split():
        vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % DIMENSION] += 1.0
    return vector / np.linalg.norm(vector)
