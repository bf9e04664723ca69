"""The methods beside re-routing, written from their descriptions, to compare the encoder with.

One text at a time, no padding, transformers' own eager attention, hidden states as `output_hidden_states` shows them.
Nothing of the package is used; the tokenizer is the model folder's own. Each function says what it follows.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

PROMPT_EOL = ('This sentence : "', '" means in one word:"')
ECHO = {
    "query": ("Instruct: Retrieve passages that answer the question,\nQuery: ", "\nQuery again: "),
    "document": ("Document: ", "\nDocument again: "),
}
TOKEN_PREPENDING = ('This sentence : <PST> "', '" means in one word:"')


def loaded(folder: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model that nothing else uses, and its tokenizer."""
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def _hidden_states(model: PreTrainedModel, ids: list[int]) -> tuple[Tensor, ...]:
    return model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states


def last_token(folder: Path | str, text: str) -> Tensor:
    """The last hidden state of the last token, (E,)."""
    model, tokenizer = loaded(folder)
    return _hidden_states(model, tokenizer(text)["input_ids"])[-1][0, -1]


def mean(folder: Path | str, text: str) -> Tensor:
    """The mean of the last hidden states, (E,)."""
    model, tokenizer = loaded(folder)
    return _hidden_states(model, tokenizer(text)["input_ids"])[-1][0].mean(dim=0)


def static(folder: Path | str, text: str) -> Tensor:
    """The mean of the rows that the model's own files have for the text's tokens, (E,)."""
    _, tokenizer = loaded(folder)
    rows = load_file(Path(folder) / "model.safetensors")["embed_tokens.weight"]
    return rows[tokenizer(text)["input_ids"]].mean(dim=0)


def prompt_eol(folder: Path | str, text: str) -> Tensor:
    """arXiv 2307.16645; kongds/scaling_sentemb, evaluation.py: `hidden_states[-1][:, -1, :]` of the template."""
    before, after = PROMPT_EOL
    return last_token(folder, before + text + after)


def echo_tokens(tokenizer: PreTrainedTokenizerBase, text: str, role: str) -> tuple[list[int], list[int]]:
    """The ids of a text that stands twice, and which of them hold a character of the second copy."""
    before, between = ECHO[role]
    encoding = tokenizer(before + text + between + text)
    start = len(before + text + between)
    found = {encoding.char_to_token(place) for place in range(start, start + len(text))}
    return encoding["input_ids"], sorted(place for place in found if place is not None)


def echo(folder: Path | str, text: str, role: str) -> Tensor:
    """arXiv 2402.15449: mean of the last hidden states over the second occurrence; `EchoPooling("mean")`."""
    model, tokenizer = loaded(folder)
    ids, second = echo_tokens(tokenizer, text, role)
    return _hidden_states(model, ids)[-1][0, second].mean(dim=0)


def random_placeholder(seed: int, size: int) -> Tensor:
    """Standard normal numbers out of SHAKE-256 by Box and Muller, as kvembed says it draws them, (E,)."""
    stream = hashlib.shake_256(b"kvembed placeholder %d" % seed).digest(16 * size)
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "big") for i in range(2 * size)]
    numbers = []
    for i in range(size):
        u, v = ((words[2 * (i // 2) + j] + 1) / 2**64 for j in (0, 1))
        turn = math.cos if i % 2 == 0 else math.sin
        numbers.append(math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * v))
    return torch.tensor(numbers)


@torch.inference_mode()
def token_prepending(
    folder: Path | str, text: str, *, first: int = 1, stop: int = 7, output: int = -2, seed: int = 0
) -> Tensor:
    """arXiv 2412.11556; fuyuchenIfyw/token_prepending: `evaluate.py` adds the token and its random row,
    `senllm/modeling_llama.py` overwrites `hidden_states[:, pst]` with `hidden_states[:, -1]` before each layer from
    `tp_starting_index` to before `tp_exiting_index`, `evaluate.py` reads `hidden_states[output_layer][:, -1]`."""
    model, tokenizer = loaded(folder)
    tokenizer.add_tokens(["<PST>"])
    placeholder = tokenizer.convert_tokens_to_ids("<PST>")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = model.get_input_embeddings().weight
    weight[placeholder] = random_placeholder(seed, weight.shape[1])
    before, after = TOKEN_PREPENDING
    ids = tokenizer(before + text + after)["input_ids"]
    place = ids.index(placeholder)

    def prepend(_layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0].clone()
        states[0, place] = states[0, -1]
        return (states, *args[1:])

    layers = model.h if hasattr(model, "h") else model.layers
    for layer in layers[first:stop]:
        layer.register_forward_pre_hook(prepend)
    return _hidden_states(model, ids)[output][0, -1]
