"""The decoder learns to embed through both prompts, with and without re-routing, and stays a language model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from demo_training.batches import TopicBatches
from demo_training.checkpoint import load_checkpoint, save_checkpoint
from demo_training.pairs import PairStyle, draw_pair
from demo_training.prompted import PromptedTokens, Routing, pooled
from demo_training.recipe import ContrastRecipe, Recipe
from demo_training.tokens import TokenCorpus
from kvembed.config import Pooling

_log = logging.getLogger(__name__)
POOLING_WEIGHTS = {Pooling.HYBRID: 0.6, Pooling.MEAN: 0.2, Pooling.LAST_TOKEN: 0.2}
_REPORT_EVERY = 25
_SAVE_SECONDS = 90.0
_VALIDATE_SECONDS = 3600.0
_VALIDATION_PAIRS = 1000


@dataclass(frozen=True, slots=True)
class Materials:
    """What training reads: articles, held-out articles, which of them share a batch, and the tokenizer."""

    corpus: TokenCorpus
    validation: TokenCorpus
    topics: TopicBatches
    tokenizer: Tokenizer


@dataclass(slots=True)
class Progress:
    """How far training is; what a checkpoint restores."""

    step: int = 0
    seconds: float = 0.0
    pairs: int = 0
    tokens: int = 0
    """Tokens of prompted queries and passages."""
    next_tokens: int = 0
    """Tokens predicted."""
    validation: float = 0.0
    """Latest validation figure."""


class ContrastState(TypedDict):
    """Checkpoint of this stage."""

    model: dict[str, Tensor]
    optimiser: dict[str, object]
    progress: dict[str, float]


class ContrastTraining:
    """Trains one decoder.

    Args:
        model: decoder with kvembed's attention; trained in place.
        materials: what to read.
        recipe: how.
        folder: where the checkpoint lies; training continues from it if it exists.
        publish: called with the model to keep, after each validation.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        materials: Materials,
        recipe: Recipe,
        folder: Path,
        publish: Callable[[LlamaForCausalLM, Progress], None],
    ) -> None:
        self._model = model
        self._start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self._materials = materials
        self._seed = recipe.seed
        self._recipe: ContrastRecipe = recipe.contrast
        self._checkpoint = folder / "contrast.pt"
        self._publish = publish
        self._prompts = PromptedTokens(materials.tokenizer)
        self._optimiser = _optimiser(model, recipe.contrast)
        self.progress = Progress()

    def run(self) -> None:
        """Train until the recipe's minutes are used up, those before an interruption included."""
        self._restore()
        self._validate()
        last_saved = last_validated = self.progress.seconds
        while (share := self.progress.seconds / (60 * self._recipe.minutes)) < 1:
            started = time.monotonic()
            losses = self._step(share)
            self.progress.seconds += time.monotonic() - started
            if self.progress.step % _REPORT_EVERY == 0:
                _log.info("decoder: step %d, %.1f min, %s", self.progress.step, self.progress.seconds / 60, losses)
            if self.progress.seconds - last_validated > _VALIDATE_SECONDS:
                self._validate()
                last_validated = self.progress.seconds
            if self.progress.seconds - last_saved > _SAVE_SECONDS:
                self._save()
                last_saved = self.progress.seconds
        self._validate()
        self._save()

    def _step(self, share: float) -> str:
        random = np.random.default_rng([self._seed, 3, self.progress.step])
        scale = min(1.0, (self.progress.step + 1) / 50) * max(0.03, 1 - share)
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * scale
        self._optimiser.zero_grad()
        contrast = self._contrast_loss(random)
        torch.autograd.backward(contrast)
        next_token = self._next_token_loss(random)
        torch.autograd.backward(self._recipe.next_token_weight * next_token)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self.progress.step += 1
        return f"contrast {contrast.item():.3f}, next token {next_token.item():.3f}"

    def _contrast_loss(self, random: np.random.Generator) -> Tensor:
        shortest, longest = self._recipe.passage_tokens
        passage = int(shortest * (longest / shortest) ** random.random())
        style = PairStyle(passage_tokens=(passage, passage + 16))
        batch = self._recipe.tokens_per_step // (passage + 55)
        articles = self._materials.topics.draw(batch, 16, random)
        pairs = [draw_pair(self._materials.corpus, article, style, random) for article in articles]
        queries = [self._prompts.wrap(pair[0], "query") for pair in pairs]
        passages = [self._prompts.wrap(pair[1], "document") for pair in pairs]
        routing = self._draw_routing(random)
        left, right = (pooled(self._model.model, rows, routing) for rows in (queries, passages))
        target = torch.arange(len(pairs), device=self._model.device)
        loss = torch.zeros((), device=self._model.device)
        for pooling, weight in POOLING_WEIGHTS.items():
            similarity = left[pooling] @ right[pooling].T / self._recipe.temperature
            both = functional.cross_entropy(similarity, target) + functional.cross_entropy(similarity.T, target)
            loss = loss + weight * both / 2
        self.progress.pairs += len(pairs)
        self.progress.tokens += sum(map(len, queries)) + sum(map(len, passages))
        return loss

    def _draw_routing(self, random: np.random.Generator) -> Routing:
        """No window is favoured: none, or one or two neighbouring layers anywhere."""
        if random.random() < self._recipe.plain_share:
            return Routing()
        depth = self._model.config.num_hidden_layers
        start = int(random.integers(depth))
        stop = min(depth, start + int(random.integers(1, 3)))
        return Routing(tuple(range(start, stop)), float(random.uniform(*self._recipe.prefix_bias)))

    def _next_token_loss(self, random: np.random.Generator) -> Tensor:
        """Plain causal pass over running text: re-routing would show the future."""
        length = self._recipe.next_token_length
        ids = self._materials.corpus.ids
        starts = random.integers(max(1, len(ids) - length), size=self._recipe.next_token_rows)
        rows = np.stack([ids[start : start + length] for start in starts]).astype(np.int64)
        self.progress.next_tokens += rows.shape[0] * (rows.shape[1] - 1)
        return next_token_loss(self._model, torch.from_numpy(rows).to(self._model.device))

    def _validate(self) -> None:
        """Blend the weights with those of the start, measure and publish that, and go back to training.

        Halfway between, the decoder has learned the prompts and still tells words apart in fields it has not seen.

        Source: Wortsman et al. 2022, weight-space ensembles of a model before and after fine-tuning.
        """
        trained = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        share = self._recipe.start_share
        blended = {name: torch.lerp(tensor, self._start[name], share) for name, tensor in trained.items()}
        self._model.load_state_dict(blended)
        self.progress.validation = self._held_out_rank()
        self._publish(self._model, self.progress)
        self._model.load_state_dict(trained)

    def _held_out_rank(self) -> float:
        """Mean reciprocal rank of held-out passages, hybrid pooling, averaged over with and without re-routing."""
        random = np.random.default_rng([self._seed, 4])
        validation = self._materials.validation
        articles = range(min(validation.size, _VALIDATION_PAIRS))
        pairs = [draw_pair(validation, article, PairStyle(dropped=0.0), random) for article in articles]
        queries = [self._prompts.wrap(pair[0], "query") for pair in pairs]
        passages = [self._prompts.wrap(pair[1], "document") for pair in pairs]
        middle = self._model.config.num_hidden_layers // 2
        figures: dict[str, dict[str, float]] = {}
        for name, routing in {"plain": Routing(), "re-routed": Routing((middle,))}.items():
            with torch.inference_mode():
                left, right = (pooled(self._model.model, rows, routing) for rows in (queries, passages))
                figures[name] = {p.value: round(_reciprocal_rank(left[p] @ right[p].T), 4) for p in Pooling}
        _log.info("decoder: validation %s", figures)
        return (figures["plain"]["hybrid"] + figures["re-routed"]["hybrid"]) / 2

    def _save(self) -> None:
        state: dict[str, object] = {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
        }
        save_checkpoint(self._checkpoint, state)

    def _restore(self) -> None:
        if (loaded := load_checkpoint(self._checkpoint)) is None:
            return
        saved = cast("ContrastState", loaded)
        self._model.load_state_dict(saved["model"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self.progress = Progress(**saved["progress"])  # type: ignore[arg-type]
        _log.info("decoder: continuing at step %d", self.progress.step)


def next_token_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of each row's tokens after its first.

    Args:
        model: any causal model.
        ids: (B, T) int64 without padding.
    """
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _reciprocal_rank(similarity: Tensor) -> float:
    """Mean of 1/rank of the diagonal of (n, n)."""
    ranks = (similarity > similarity.diagonal()[:, None]).sum(dim=1) + 1
    return float((1 / ranks).mean())


def _optimiser(model: LlamaForCausalLM, recipe: ContrastRecipe) -> torch.optim.Optimizer:
    embeddings = [model.model.embed_tokens.weight]
    others = [parameter for parameter in model.parameters() if parameter is not embeddings[0]]
    return torch.optim.Adam(
        [
            {"params": embeddings, "lr": 0.0, "peak": recipe.embedding_learning_rate},
            {"params": others, "lr": 0.0, "peak": recipe.learning_rate},
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
