"""What the encoder costs beside a plain forward pass and beside sentence-transformers, as ratios from one run.

    python -m benchmarks.encoder [--rounds 7] [--tokens 30000] [--data FOLDER] [--model MODEL] [--json]
    python -m benchmarks.encoder --device cuda

Two backbones: the bundled model, and a Llama of random weights that is large enough for the arithmetic to weigh (12
layers, 512 wide, 37 M parameters without its embeddings); --model takes another instead of both.

One pass   the same token ids, 8 rows of 128 to 256: transformers' own model with its SDPA attention; our path without
           re-routing; re-routed in a window of a tenth of the depth; the concatenated eager form of the same; two
           passes, the first of which keeps keys and values, as public re-implementations do.
From text  whole calls, raw texts to a float32 array: this package's last-token and mean methods, and re-routing with
           its prompt, beside sentence-transformers with the same weights, tokens and pooling, in batches of 32, its
           default. Texts are drawn from the documents of --data (folders in BEIR layout, such as cranfield and time),
           else from the standard library's documentation. Vectors are compared first.

Memory is the peak of a process of its own that does nothing else, less what it held once the model was loaded.
Tools take turns within a round; ratios are medians over the rounds. sentence-transformers is the extra `bench`.
On a GPU see benchmarks.encoder_gpu, which --device cuda runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaModel
from transformers.utils import logging

from benchmarks.interleaved import interleaved
from benchmarks.peers.worker import forget_peak, resident
from kvembed import DEMO_MODEL, EncoderConfig, KVEncoder, Method
from kvembed.backbone import load_backbone, rerouted_states, right_padded
from kvembed.models import resolve_model
from pipelines.stdlib_docs import stdlib_documents

MAX_LENGTH = 512
ROW_LENGTHS = (256, 250, 230, 200, 190, 170, 150, 128)
BATCH_SIZE = 32
MB = 1024 * 1024
POOLINGS = {"last token": Method.LAST_TOKEN, "mean": Method.MEAN}
KEY = {"last token": "lasttoken", "mean": "mean"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    backbone: str
    part: str
    name: str
    seconds: float
    ratio: float
    base: str
    peak_mb: float | None


def main() -> None:
    """Print the table, or one measurement for the process that asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds")
    parser.add_argument(
        "--tokens", type=int, default=30_000, help="content tokens of the texts from which whole calls start"
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of folders in BEIR layout")
    parser.add_argument("--model", default=None, help="a folder or hub id instead of the two backbones")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--peak-of", nargs=3, metavar=("MODEL", "RUN", "TEXTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if options.peak_of:
        print(json.dumps(_peak_here(*options.peak_of)))
        return
    if options.device == "cuda":
        from benchmarks.encoder_gpu import main as on_gpu

        on_gpu(options.rounds, options.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for model in backbones(options.model, Path(folder)) for row in _measured(*model, options)]
    if options.json:
        print(json.dumps({**_machine(), "rows": [asdict(row) for row in rows]}))
    else:
        _show(rows)


def backbones(model: str | None, folder: Path) -> list[tuple[str, str]]:
    """Return titles and models to measure: the one asked for, or the two this page is about; one is made in folder."""
    if model is not None:
        return [(model, model)]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=AutoConfig.from_pretrained(resolve_model(DEMO_MODEL)).vocab_size,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    LlamaModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((resolve_model(DEMO_MODEL) / name).read_bytes())
    return [("bundled model", DEMO_MODEL), ("random Llama, 12 x 512", str(folder))]


def _measured(title: str, model: str, options: argparse.Namespace) -> list[Row]:
    texts = drawn_texts(options.data, options.tokens, KVEncoder.from_pretrained(model, device="cpu"))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        rows = []
        for part, base, runs in (
            ("one pass", "transformers, sdpa", _passes(model)),
            ("from text", "sentence-transformers, last token", _calls(model, texts)),
        ):
            times = interleaved(runs, options.rounds)
            for name in runs:
                beside = base if part == "one pass" else _peer_of(name)
                peak = _peak(model, name, file.name)
                rows.append(Row(title, part, name, times.median(name), times.ratio(name, beside), beside, peak))
    return rows


def _peer_of(name: str) -> str:
    return "sentence-transformers, mean" if "mean" in name else "sentence-transformers, last token"


def _passes(model: str) -> dict[str, Callable[[], object]]:
    backbone = load_backbone(model, revision=None, dtype="float32", device="cpu")
    stock = AutoModel.from_pretrained(resolve_model(model), attn_implementation="sdpa", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    high = backbone.tokenizer.get_vocab_size()
    ids, last = right_padded(
        [torch.randint(3, high, (length,), generator=generator).tolist() for length in ROW_LENGTHS], torch.device("cpu")
    )
    window = backbone.reroutable[len(backbone.reroutable) // 2 :][: backbone.num_layers // 10 + 1]

    def ours(layers: Sequence[int], form: str = "blend") -> object:
        return rerouted_states(backbone.model, ids, last, layers=layers, prefix_bias=1.0, form=form)  # type: ignore[arg-type]

    def two_passes() -> object:
        stock(input_ids=ids, use_cache=True)
        return ours(window, "concatenated")

    return {
        "transformers, sdpa": lambda: stock(input_ids=ids, use_cache=False),
        "plain": lambda: ours(()),
        "re-routed": lambda: ours(window),
        "concatenated": lambda: ours(window, "concatenated"),
        "two passes": two_passes,
    }


def _calls(model: str, texts: list[str]) -> dict[str, Callable[[], NDArray[np.float32]]]:
    runs = {}
    for name, method in POOLINGS.items():
        encoder = KVEncoder(EncoderConfig(model=model, method=method, max_length=MAX_LENGTH), device="cpu")
        runs[f"kvembed, {name}"] = _ours(encoder, texts)
        runs[f"sentence-transformers, {name}"] = _theirs(model, KEY[name], texts)
        _check_equal(name, runs[f"kvembed, {name}"](), runs[f"sentence-transformers, {name}"]())
    half = encoder.num_layers // 2
    layers = tuple(range(half, half + encoder.num_layers // 10 + 1))
    rerouting = KVEncoder(EncoderConfig(model=model, layers=layers, max_length=MAX_LENGTH), device="cpu")
    runs["kvembed, re-routed with its prompt"] = _ours(rerouting, texts)
    return runs


def _ours(encoder: KVEncoder, texts: list[str]) -> Callable[[], NDArray[np.float32]]:
    return lambda: encoder.encode_document(texts)


def _theirs(model: str, pooling: str, texts: list[str]) -> Callable[[], NDArray[np.float32]]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    words = Transformer(str(resolve_model(model)), max_seq_length=MAX_LENGTH, model_kwargs={"dtype": torch.float32})
    words.tokenizer.padding_side = "right"
    if words.tokenizer.pad_token is None:
        words.tokenizer.pad_token = words.tokenizer.eos_token or words.tokenizer.convert_ids_to_tokens(0)
    pool = Pooling(words.get_embedding_dimension(), pooling_mode=pooling)
    encoder = SentenceTransformer(modules=[words, pool], device="cpu")

    def encode() -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = encoder.encode(
            texts, batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return encode


def _check_equal(name: str, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    """Refuse to compare the time of two things that are not the same."""
    if (away := float(np.abs(ours - theirs).max())) > 1e-4:
        raise SystemExit(f"{name}: vectors differ by {away:.1e} from those of sentence-transformers; nothing was timed")


def drawn_texts(data: Path | None, tokens: int, encoder: KVEncoder) -> list[str]:
    """Draw whole documents, none longer than the model takes, until there are so many tokens."""
    if data is None:
        everything = [text for _, text in stdlib_documents()]
    else:
        lines = [line for file in sorted(data.glob("*/corpus.jsonl")) for line in file.open(encoding="utf-8")]
        everything = [json.loads(line)["text"] for line in lines]
    Random(0).shuffle(everything)
    drawn: list[str] = []
    for text in everything:
        ids = encoder.tokenizer.encode(text[: 16 * MAX_LENGTH], add_special_tokens=False)
        if not ids.ids:
            continue
        end = ids.offsets[min(len(ids.ids), MAX_LENGTH - 32) - 1][1]
        drawn.append(text[:end])
        tokens -= min(len(ids.ids), MAX_LENGTH - 32)
        if tokens <= 0:
            break
    return drawn


def _peak(model: str, run: str, texts: str) -> float:
    command = [sys.executable, "-m", "benchmarks.encoder", "--peak-of", model, run, texts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def _peak_here(model: str, run: str, texts: str) -> float:
    """Return MB that one run needs beyond what was held before it, models of the others included in neither."""
    loaded = {"kvembed": _one_of_ours, "sentence": _one_of_theirs}.get(run.partition("-")[0].partition(",")[0])
    call = loaded(model, run, json.loads(Path(texts).read_text())) if loaded else _passes(model)[run]
    before = resident("VmRSS")
    forget_peak()
    with torch.inference_mode():
        call()
    return (resident("VmHWM") - before) / MB


def _one_of_ours(model: str, run: str, texts: list[str]) -> Callable[[], object]:
    pooled = POOLINGS.get(run.removeprefix("kvembed, "))
    if pooled is not None:
        return _ours(KVEncoder(EncoderConfig(model=model, method=pooled, max_length=MAX_LENGTH), device="cpu"), texts)
    encoder = KVEncoder(EncoderConfig(model=model, layers=(), max_length=MAX_LENGTH), device="cpu")
    half = encoder.num_layers // 2
    return _ours(encoder.with_layers(range(half, half + encoder.num_layers // 10 + 1)), texts)


def _one_of_theirs(model: str, run: str, texts: list[str]) -> Callable[[], object]:
    return _theirs(model, KEY[run.removeprefix("sentence-transformers, ")], texts)


def _machine() -> dict[str, str]:
    packages = ("torch", "transformers", "sentence-transformers")
    return {
        **{package: version(package) for package in packages},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, float32",
    }


def _show(rows: list[Row]) -> None:
    print(", ".join(f"{name} {value}" for name, value in _machine().items()))
    for title in dict.fromkeys((row.backbone, row.part) for row in rows):
        print(f"\n{title[0]}, {title[1]}{'seconds':>44}{'ratio':>8}{'peak MB':>10}")
        for row in rows:
            if (row.backbone, row.part) == title:
                beside = "" if row.name == row.base else f"  of {row.base}"
                print(f"  {row.name:<52}{row.seconds:>9.3f}{row.ratio:>8.3f}{row.peak_mb:>10.1f}{beside}")


if __name__ == "__main__":
    main()
