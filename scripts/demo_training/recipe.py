"""Every number of the recipe in one place; the defaults are those that made the shipped weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from demo_training.pairs import PairStyle


@dataclass(frozen=True, slots=True)
class StaticRecipe:
    """Contrast over bags of token vectors: no decoder yet, only its embeddings."""

    steps: int = 2000
    batch: int = 1024
    """Pairs per step; every other passage of the batch is a negative."""
    learning_rate: float = 2e-3
    temperature: float = 0.05
    random_share: float = 1.0
    """Length of the random part mixed into each factorised vector of length 1; it tells words apart."""
    pairs: PairStyle = field(default_factory=PairStyle)


@dataclass(frozen=True, slots=True)
class ContrastRecipe:
    """Contrast through the decoder and both prompts, mixed with next-token prediction."""

    minutes: float = 26.0
    tokens_per_step: int = 7_000
    """About how many tokens of queries and passages one step encodes."""
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 2e-4
    temperature: float = 0.05
    start_share: float = 0.5
    """Share of the untrained decoder in the average of weights that is kept."""
    plain_share: float = 0.3
    """Share of steps without re-routing; the others draw one or two neighbouring layers at random."""
    prefix_bias: tuple[float, float] = (0.0, 2.0)
    """Range the prefix bias of a step is drawn from."""
    passage_tokens: tuple[int, int] = (24, 160)
    """Range a step's passage length is drawn from."""
    next_token_rows: int = 6
    next_token_length: int = 128
    next_token_weight: float = 0.2


@dataclass(frozen=True, slots=True)
class Recipe:
    """From an empty folder to weights."""

    seed: int = 1
    vocabulary: int = 12_000
    tokenizer_articles: int = 20_000
    """Articles, drawn at random, that the tokenizer is trained on."""
    width: int = 384
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 160
    positions: int = 1024
    bigram_rank: int = 48
    """Dimensions of a hidden state that start as a bigram model."""
    topics: int = 256
    """Clusters of articles; batches are filled from a few of them, so that negatives are hard."""
    static: StaticRecipe = field(default_factory=StaticRecipe)
    contrast: ContrastRecipe = field(default_factory=ContrastRecipe)

    def digest(self, sources: list[str]) -> str:
        """Hash of the recipe and of what it is fed; a resumed run must have the same.

        Minutes are left out: a longer run may continue a shorter one.
        """
        record = asdict(self)
        del record["contrast"]["minutes"]
        canonical = json.dumps([record, sources], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
