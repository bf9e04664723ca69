"""Which articles share a batch: mostly neighbours in topic, so that negatives are hard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]

from demo_training.tokens import TokenCorpus

HARD_SHARE = 0.7
"""Share of a batch that is filled topic by topic; the rest is drawn from everywhere."""


def bags(rows: list[NDArray[np.uint16]], vocabulary: int) -> csr_matrix:
    """Count tokens: (n, V) float32, one row per token sequence."""
    columns = np.concatenate(rows).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    ones = np.ones(len(columns), dtype=np.float32)
    counts = csr_matrix((ones, columns, starts), shape=(len(rows), vocabulary))
    counts.sum_duplicates()
    return counts


class TopicBatches:
    """Draws the articles of a batch.

    Args:
        corpus: articles to draw from.
        vectors: (V, E) token vectors that say which articles are alike.
        topics: number of clusters.
        seed: of the clustering.
    """

    def __init__(self, corpus: TokenCorpus, vectors: NDArray[np.float32], topics: int, seed: int) -> None:
        counts = bags([corpus.article(index)[:400] for index in range(corpus.size)], len(vectors))
        means = counts @ vectors
        means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-9
        topics = max(1, min(topics, corpus.size // 8))
        clusters = MiniBatchKMeans(topics, batch_size=4096, max_iter=20, n_init=1, random_state=seed)
        labels = clusters.fit_predict(means)
        members = [np.flatnonzero(labels == topic) for topic in range(topics)]
        self._topics = [group for group in members if len(group) >= 2]
        sizes = np.array([len(group) for group in self._topics], dtype=np.float64)
        self._shares = sizes / sizes.sum()
        self._articles = corpus.size

    def draw(self, batch: int, per_topic: int, random: np.random.Generator) -> list[int]:
        """Draw `batch` distinct articles, or all there are if fewer."""
        batch = min(batch, self._articles)
        drawn: dict[int, None] = {}
        for _ in range(int(batch * HARD_SHARE) // per_topic + 1):
            group = self._topics[random.choice(len(self._topics), p=self._shares)]
            drawn.update(dict.fromkeys(random.choice(group, min(per_topic, len(group)), replace=False).tolist()))
        while len(drawn) < batch:
            drawn[int(random.integers(self._articles))] = None
        return list(drawn)[:batch]
