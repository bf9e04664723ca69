"""An encoder that costs nothing: the contract of KVEncoder, with hashed words in place of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from kvembed.config import fingerprint_of
from kvembed.transforms import Transform, asked_of, check_fitted, refuse_unfitted, transform_entry

DIMENSION = 32


@dataclass(frozen=True)
class FakeConfig:
    model: str = "fake/hashed-words"
    layers: str | tuple[int, ...] = (2,)
    prefix_bias: float = 1.0
    dtype: str = "float32"
    weights: str = "weights-1"
    transform: Transform = None
    revision: None = None

    def identity(self) -> dict[str, object]:
        plain = self._plain()
        check_fitted(self.transform, fingerprint_of(plain))
        return plain if self.transform is None else {**plain, "transform": self.transform_entry()}

    def transform_entry(self) -> dict[str, object] | None:
        return transform_entry(self.transform, lambda: "head-1")

    def _plain(self) -> dict[str, object]:
        return {
            "model": self.model,
            "revision": None,
            "layers": list(self.layers),
            "prefix_bias": self.prefix_bias,
            "dtype": self.dtype,
            "weights_sha256": self.weights,
            "tokenizer_sha256": "tokenizer-1",
            "architecture_sha256": "architecture-1",
        }

    def fingerprint(self) -> str:
        return fingerprint_of(self.identity())


@dataclass(frozen=True)
class FakeEncoding:
    vectors: NDArray[np.float32]
    tokens: NDArray[np.int64]
    truncated_tokens: NDArray[np.int64]


class FakeEncoder:
    """Bags of hashed words, so that similar texts are near each other; counts what it is asked.

    Attributes:
        texts: Every document text encoded so far, canaries included.
        poison: A text containing it gets a vector of NaN.
    """

    dimension = DIMENSION
    num_layers = 8
    reroutable_layers = tuple(range(8))
    document_budget = 200
    document_overhead = 5
    document_copies = 1
    devices = (torch.device("cpu"),)

    def __init__(self, config: FakeConfig | None = None, *, poison: str | None = None) -> None:
        self.config = config or FakeConfig()
        if (asked := asked_of(self.config.transform)) is not None:
            self.dimension = asked.size(DIMENSION)
        self.poison = poison
        self.texts: list[str] = []
        self.tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    @property
    def fingerprint(self) -> str:
        return self.config.fingerprint()

    def identity(self) -> dict[str, object]:
        return self.config.identity()

    def with_layers(self, layers: Sequence[int]) -> FakeEncoder:
        return self._with(layers=tuple(layers))

    def with_transform(self, transform: Transform) -> FakeEncoder:
        return self._with(transform=transform)

    def bare(self) -> FakeEncoder:
        return self._with(transform=None)

    def _with(self, **fields: object) -> FakeEncoder:
        other = FakeEncoder(replace(self.config, **fields), poison=self.poison)
        other.texts = self.texts
        return other

    def encode_document(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_counted(texts, "document").vectors

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vector(text) for text in texts])

    def encode_counted(self, texts: Sequence[str], role: str) -> FakeEncoding:
        assert role in ("document", "query")
        assert self.config.layers != "auto"
        self.texts.extend(texts)
        vectors = np.stack([self._vector(text) for text in texts])
        tokens = np.array([len(text.split()) + self.document_overhead for text in texts])
        return FakeEncoding(vectors, tokens, np.zeros(len(texts), dtype=np.int64))

    def last_token_states(self, texts: Sequence[str], *, batch_tokens: int | None = None) -> NDArray[np.float32]:
        generator = np.random.default_rng(0)
        noise = generator.normal(size=(self.num_layers, len(texts), DIMENSION)).astype(np.float32)
        noise[4, :, 3:] = 0.0  # the fifth layer varies in three directions only
        return noise

    def _vector(self, text: str) -> NDArray[np.float32]:
        if self.poison is not None and self.poison in text:
            return np.full(DIMENSION, np.nan, dtype=np.float32)
        vector = np.full(DIMENSION, 0.01, dtype=np.float32)
        for word in text.lower().split():
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % DIMENSION] += 1.0
        if self.config.transform is not None:
            refuse_unfitted(self.config.transform)
            vector = self.config.transform.apply(torch.from_numpy(vector[None])).numpy()[0]
        return vector / np.linalg.norm(vector)
