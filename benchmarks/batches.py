"""What batch size, packing, a second process and torch.compile are worth on this machine, as ratios from one run.

    python -m benchmarks.batches [--rounds 5] [--tokens 15000] [--data FOLDER] [--only budget,packing,devices,compile]

budget    whole calls of `encode_document` with so many padded tokens per pass, over those with the default
packing   the same sorted batches laid end to end, over padded
devices   `device="cpu,cpu"`, two processes with half the threads each, over one process with all of them
compile   the forward pass of some batches under torch.compile with dynamic shapes, whole or its MLPs alone, over eager;
          and the seconds of the first call, in which it is compiled (minutes)

Backbones and texts are those of benchmarks.encoder. Runs take turns within a round; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.encoder import backbones, drawn_texts
from benchmarks.interleaved import interleaved
from kvembed import EncoderConfig, KVEncoder
from kvembed.backbone import load_backbone, rerouted_states, right_padded
from kvembed.batching import token_budget_batches
from kvembed.memory import CPU_TOKENS
from kvembed.packing import pack, packed_states

BUDGETS = (256, 512, 1024, 2048, 4096, 16384)
Runs = dict[str, Callable[[], object]]


def budget(config: EncoderConfig, texts: Sequence[str]) -> Runs:
    """Whole calls with each budget; the first is the default."""
    encoders = {tokens: KVEncoder(config, device="cpu", batch_tokens=tokens) for tokens in BUDGETS}
    default = encoders.pop(CPU_TOKENS)
    runs: Runs = {f"{CPU_TOKENS} tokens": lambda: default.encode_document(texts)}
    for tokens, encoder in encoders.items():
        runs[f"{tokens} tokens"] = lambda encoder=encoder: encoder.encode_document(texts)  # type: ignore[misc]
    return runs


def packing(config: EncoderConfig, texts: Sequence[str]) -> Runs:
    """Passes over the same batches, padded first."""
    model, layers, batches = _batches(config, texts)
    cpu = torch.device("cpu")
    padded = [right_padded(batch, cpu) for batch in batches]
    rows = [pack(batch, cpu) for batch in batches]
    return {
        "padded": lambda: [rerouted_states(model, *batch, layers=layers, prefix_bias=1.0) for batch in padded],
        "packed": lambda: [packed_states(model, row, layers=layers, prefix_bias=1.0) for row in rows],
    }


def devices(config: EncoderConfig, texts: Sequence[str]) -> Runs:
    """Whole calls in one process first, then in two."""
    one, two = KVEncoder(config, device="cpu"), KVEncoder(config, device=["cpu", "cpu"])
    return {"one process": lambda: one.encode_document(texts), "two processes": lambda: two.encode_document(texts)}


def compiled(config: EncoderConfig, texts: Sequence[str]) -> Runs:
    """Passes over the same batches, eager first; says how long the first calls took."""
    model, layers, batches = _batches(config, texts)
    padded = [right_padded(batch, torch.device("cpu")) for batch in batches]
    parts, whole = copy.deepcopy(model), copy.deepcopy(model)
    for layer in parts.layers:
        layer.mlp = torch.compile(layer.mlp, dynamic=True)
    runs: Runs = {}
    for name, made in (("eager", model), ("MLPs", parts), ("whole", torch.compile(whole, dynamic=True))):

        def run(made: object = made) -> object:
            return [rerouted_states(made, *batch, layers=layers, prefix_bias=1.0) for batch in padded]  # type: ignore[arg-type]

        start = time.perf_counter()
        with torch.inference_mode():
            run()
        print(f"  {name + ', first call':24} {time.perf_counter() - start:8.1f} s", flush=True)
        runs[name] = run
    return runs


def _batches(
    config: EncoderConfig, texts: Sequence[str]
) -> tuple[torch.nn.Module, tuple[int, ...], list[list[list[int]]]]:
    """Return the model, its re-routing layers, and sorted batches of token ids."""
    backbone = load_backbone(config.model, revision=None, dtype="float32", device="cpu")
    ids = [encoding.ids for encoding in backbone.tokenizer.encode_batch(list(texts))]
    layers = () if config.layers == "auto" else config.layers
    return (
        backbone.model,
        layers,
        [[ids[i] for i in group] for group in token_budget_batches(list(map(len, ids)), CPU_TOKENS)],
    )


def main() -> None:
    """Print a table per backbone and section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--tokens", type=int, default=15_000, help="content tokens of the texts")
    parser.add_argument("--data", type=Path, default=None, help="folder of folders in BEIR layout")
    parser.add_argument("--only", default="budget,packing,devices", help="sections, separated by commas")
    options = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    sections = {"budget": budget, "packing": packing, "devices": devices, "compile": compiled}
    with tempfile.TemporaryDirectory() as folder:
        for title, model in backbones(None, Path(folder)):
            plain = KVEncoder(EncoderConfig(model=model, layers=()), device="cpu")
            middle = plain.num_layers // 2
            texts = drawn_texts(options.data, options.tokens, plain)
            for name in options.only.split(","):
                print(f"\n{title}, {name}, {torch.get_num_threads()} threads", flush=True)
                runs = sections[name](EncoderConfig(model=model, layers=(middle,)), texts)
                times = interleaved(runs, options.rounds)
                for run in runs:
                    print(
                        f"  {run:24} {times.median(run):8.3f} s  {times.ratio(run, next(iter(runs))):6.3f}", flush=True
                    )


if __name__ == "__main__":
    main()
