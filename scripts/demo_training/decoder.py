"""The decoder: a stock Llama that starts as a bag of static vectors beside a bigram model."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from demo_training.bigrams import BigramModel
from demo_training.recipe import Recipe
from kvembed.rerouting import ATTENTION_NAME

NORM_EPSILON = 1.0
"""Large on purpose: the norms then leave short vectors short, so frequent words stay light in the mean."""
EMBEDDING_RMS = 0.8
"""Root mean square of the ninetieth percentile of the static vectors, in the linear range of those norms."""
BIGRAM_RMS = 0.5
"""Root mean square of the bigram inputs in running text."""
BIGRAM_SHARE = 0.05
"""Weight of the bigram dimensions in the last norm: the language-model head reads them, pooling hardly sees them."""
BIGRAM_DAMPING = 0.7
"""Scale of the bigram logits; below 1 since least squares overrates rare successors."""
RESIDUAL_SCALE = 0.05
"""Output projections that are not built by hand start at this fraction of the usual size."""


def build_decoder(
    vectors: Tensor, bigrams: BigramModel, recipe: Recipe, end_of_text: int, padding: int
) -> LlamaForCausalLM:
    """Build the untrained decoder.

    The first dimensions of a hidden state hold the principal axes of the static vectors, the last R those of a bigram
    model. So finding passages and predicting words, which want frequent words light and heavy, do not fight over the
    same numbers. In every layer but the first, attention starts as the running mean of the static part, over a
    share of its dimensions: the last token then begins as a summary of the text.

    Args:
        vectors: (V, E) static token vectors.
        bigrams: inputs and outputs of rank R.
        recipe: shape and seed.
        end_of_text: id of that token.
        padding: id of that token.
    """
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vectors),
            hidden_size=recipe.width,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.width // recipe.heads,
            max_position_embeddings=recipe.positions,
            rms_norm_eps=NORM_EPSILON,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=end_of_text,
            pad_token_id=padding,
        )
    )
    model.set_attn_implementation(ATTENTION_NAME)
    semantic = recipe.width - recipe.bigram_rank
    with torch.no_grad():
        _set_tables(model, _principal(vectors, semantic), bigrams)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(RESIDUAL_SCALE)
            layer.self_attn.o_proj.weight.mul_(RESIDUAL_SCALE)
        _start_as_running_mean(model, recipe, semantic)
    return model


def _principal(vectors: Tensor, width: int) -> Tensor:
    """Rotate (V, E) to its principal axes and keep the first; (V, width), scaled for the norms."""
    _, _, axes = torch.linalg.svd(vectors, full_matrices=False)
    kept: Tensor = vectors @ axes[:width].T
    size = float(kept.square().mean(dim=1).sqrt().quantile(0.9))
    return kept * (EMBEDDING_RMS / size)


def _set_tables(model: LlamaForCausalLM, static: Tensor, bigrams: BigramModel) -> None:
    """Fill token embeddings, last norm and language-model head."""
    semantic = static.shape[1]
    model.model.embed_tokens.weight.copy_(torch.cat([static, BIGRAM_RMS * bigrams.inputs], dim=1))
    model.model.norm.weight[semantic:] = BIGRAM_SHARE
    model.lm_head.weight[:, semantic:] = BIGRAM_DAMPING / (BIGRAM_RMS * BIGRAM_SHARE) * bigrams.outputs


def _start_as_running_mean(model: LlamaForCausalLM, recipe: Recipe, semantic: int) -> None:
    """Let value and output projections of layers 1, 2, ... copy one share of an orthogonal basis each."""
    size = recipe.width // recipe.heads
    group = recipe.heads // recipe.kv_heads
    rows = min(size, semantic // ((recipe.layers - 1) * recipe.kv_heads))
    basis, _ = torch.linalg.qr(torch.randn(semantic, semantic))
    shares = iter(basis.split(rows))
    for layer in model.model.layers[1:]:
        for kv_head in range(recipe.kv_heads):
            share = next(shares)  # (rows, semantic)
            layer.self_attn.v_proj.weight[kv_head * size : kv_head * size + rows, :semantic] = share
            layer.self_attn.v_proj.weight[kv_head * size : kv_head * size + rows, semantic:] = 0
            for head in range(kv_head * group, (kv_head + 1) * group):
                layer.self_attn.o_proj.weight[:semantic, head * size : head * size + rows] = share.T / group
