"""Static token vectors that find passages by themselves: the embeddings the decoder starts from."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from demo_training.batches import TopicBatches, bags
from demo_training.checkpoint import load_checkpoint, save_checkpoint
from demo_training.cooccurrence import RARE_SHARE
from demo_training.pairs import draw_pair
from demo_training.recipe import Recipe
from demo_training.tokens import TokenCorpus

_log = logging.getLogger(__name__)
_SAVE_EVERY = 100
Bags = tuple[csr_matrix, csr_matrix]


class StaticState(TypedDict):
    """Checkpoint of this stage."""

    weights: Tensor
    optimiser: dict[str, object]
    step: int


def initial_vectors(factors: Tensor, corpus: TokenCorpus, tokenizer: Tokenizer, recipe: Recipe) -> Tensor:
    """Mix factorised vectors with random ones and scale each by how rare its piece is.

    The factors say which words are alike, the random part keeps words apart; a piece with and without
    the space in front shares its random part.

    Args:
        factors: (V, E) orthonormal columns of the factorised PPMI matrix.
        corpus: where frequencies come from.
        tokenizer: names of the pieces.
        recipe: width, seed and share of the random part.
    """
    random = torch.randn(factors.shape, generator=torch.Generator().manual_seed(recipe.seed))
    pieces = tokenizer.get_vocab()
    for piece, index in pieces.items():
        if (spaced := pieces.get("Ġ" + piece)) is not None:
            random[index] = random[spaced]
    mixed = functional.normalize(factors, dim=1) + recipe.static.random_share * functional.normalize(random, dim=1)
    frequency = torch.from_numpy(corpus.frequencies(len(factors))).float()
    return functional.normalize(mixed, dim=1) * (RARE_SHARE / (RARE_SHARE + frequency))[:, None]


def train_static(
    vectors: Tensor, corpus: TokenCorpus, topics: TopicBatches, recipe: Recipe, checkpoint: Path
) -> Tensor:
    """Train token vectors by in-batch contrast of bag means; continue from the checkpoint if there is one.

    Args:
        vectors: (V, E) float32 to start from.
        corpus: articles.
        topics: which articles share a batch.
        recipe: steps, batch, learning rate.
        checkpoint: file to continue from and to save to.

    Returns:
        (V, E) float32.
    """
    weights = vectors.clone().requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=recipe.static.learning_rate, betas=(0.9, 0.99))
    step = 0
    if (loaded := load_checkpoint(checkpoint)) is not None:
        saved = cast("StaticState", loaded)
        weights.data.copy_(saved["weights"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
        _log.info("static vectors: continuing at step %d", step)
    batches = _Prefetched(corpus, topics, recipe, len(vectors), step)
    average = 0.0
    while step < recipe.static.steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.static.learning_rate * _schedule(step, recipe.static.steps)
        loss = _loss(weights, batches.get(), recipe.static.temperature)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        step += 1
        average = loss.item() if average == 0 else 0.98 * average + 0.02 * loss.item()
        if step % _SAVE_EVERY == 0 or step == recipe.static.steps:
            state = {"weights": weights.detach(), "optimiser": optimiser.state_dict(), "step": step}
            save_checkpoint(checkpoint, state)
            _log.info("static vectors: step %d of %d, loss %.3f", step, recipe.static.steps, average)
    return weights.detach()


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 20) * max(0.05, 1 - step / steps)


def _loss(weights: Tensor, batch: Bags, temperature: float) -> Tensor:
    queries, passages = (functional.normalize(_bag_sum(weights, counts), dim=1) for counts in batch)
    similarity = queries @ passages.T / temperature  # (B, B)
    target = torch.arange(len(similarity))
    return (functional.cross_entropy(similarity, target) + functional.cross_entropy(similarity.T, target)) / 2


def _bag_sum(weights: Tensor, counts: csr_matrix) -> Tensor:
    """(n, E): per row of counts (n, V) the sum of its tokens' vectors (V, E)."""
    return cast("Tensor", _BagSum.apply(weights, counts))  # type: ignore[no-untyped-call]


class _BagSum(torch.autograd.Function):
    """counts @ weights through scipy, whose sparse product is several times faster than an embedding bag."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weights: Tensor, counts: csr_matrix) -> Tensor:
        ctx.counts = counts  # type: ignore[attr-defined]
        return torch.from_numpy(counts @ weights.detach().numpy())

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        counts: csr_matrix = ctx.counts  # type: ignore[attr-defined]
        return torch.from_numpy(counts.T.tocsr() @ gradients[0].contiguous().numpy()), None


class _Prefetched:
    """Draws batches in a thread; batch s depends on the seed and s alone, so a resumed run sees the same ones."""

    def __init__(self, corpus: TokenCorpus, topics: TopicBatches, recipe: Recipe, vocabulary: int, step: int) -> None:
        self._corpus, self._topics, self._recipe, self._vocabulary = corpus, topics, recipe, vocabulary
        self._queue: queue.Queue[Bags | BaseException] = queue.Queue(4)
        threading.Thread(target=self._fill, args=(step,), daemon=True).start()

    def get(self) -> Bags:
        """Return the next batch, or raise what went wrong while drawing it."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _fill(self, first: int) -> None:
        try:
            for step in range(first, self._recipe.static.steps):
                self._queue.put(self._draw(np.random.default_rng([self._recipe.seed, 2, step])))
        except BaseException as error:  # noqa: BLE001 - raised again in the training thread
            self._queue.put(error)

    def _draw(self, random: np.random.Generator) -> Bags:
        articles = self._topics.draw(self._recipe.static.batch, 128, random)
        pairs = [draw_pair(self._corpus, article, self._recipe.static.pairs, random) for article in articles]
        rows: list[list[NDArray[np.uint16]]] = [[pair[side] for pair in pairs] for side in (0, 1)]
        return bags(rows[0], self._vocabulary), bags(rows[1], self._vocabulary)
