"""The tokenizer, and the corpus as one flat array of its tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from demo_training.corpus import Article

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
_WORDS = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a lower-casing byte-level BPE tokenizer.

    Lower-casing buys a small model more than case would: ``Boundary`` at the start of a sentence
    and ``boundary`` in a query are one piece. Offsets still refer to the original text.

    Args:
        texts: a sample of the corpus.
        vocabulary: pieces, the two special ones and the 256 bytes included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True, slots=True)
class TokenCorpus:
    """Tokens of S sentences of A articles; each article's first sentence is its title."""

    ids: NDArray[np.uint16]
    """(N,) tokens of all sentences, each tokenised with a space in front."""
    sentences: NDArray[np.int64]
    """(S + 1,) where each sentence starts in ``ids``."""
    articles: NDArray[np.int64]
    """(A + 1,) where each article starts in ``sentences``."""

    def sentence(self, index: int) -> NDArray[np.uint16]:
        """(T,) tokens of one sentence."""
        return self.ids[self.sentences[index] : self.sentences[index + 1]]

    def article(self, index: int) -> NDArray[np.uint16]:
        """(T,) tokens of one article, title first."""
        first, last = self.articles[index], self.articles[index + 1]
        return self.ids[self.sentences[first] : self.sentences[last]]

    @property
    def size(self) -> int:
        """Number of articles."""
        return len(self.articles) - 1

    def frequencies(self, vocabulary: int) -> NDArray[np.float64]:
        """(V,) share of each piece among all tokens; sums to 1."""
        counts = np.bincount(self.ids, minlength=vocabulary)
        return counts / max(int(counts.sum()), 1)

    def save(self, path: Path) -> None:
        """Write to an .npz file."""
        np.savez(path, ids=self.ids, sentences=self.sentences, articles=self.articles)

    @classmethod
    def load(cls, path: Path) -> TokenCorpus:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["sentences"], arrays["articles"])


def tokenise(articles: Iterable[Article], tokenizer: Tokenizer) -> TokenCorpus:
    """Tokenise articles with at least two sentences; others teach nothing about pairs."""
    ids: list[NDArray[np.uint16]] = []
    lengths: list[int] = []
    counts: list[int] = []
    useful = (article for article in articles if len(article.sentences) >= 2)
    for batch in _batches(useful, 512):
        texts = [text for article in batch for text in (article.title, *article.sentences)]
        encoded = tokenizer.encode_batch_fast([f" {text}" if text else "" for text in texts])
        for encoding in encoded:
            ids.append(np.array(encoding.ids, dtype=np.uint16))
            lengths.append(len(encoding.ids))
        counts.extend(1 + len(article.sentences) for article in batch)
    return TokenCorpus(
        np.concatenate(ids) if ids else np.zeros(0, np.uint16),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
    )


def _batches(items: Iterable[Article], size: int) -> Iterator[list[Article]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
