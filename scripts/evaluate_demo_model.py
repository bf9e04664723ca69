"""Measure the bundled model: `python scripts/evaluate_demo_model.py --data FOLDER`.

Prints the model card's table: nDCG@10 (linear gains, ranx) on collections in BEIR layout, Spearman on sentence pairs
(both sentences in the document role), each under last-token, mean and hybrid pooling without re-routing and under
hybrid pooling with re-routing in the layers that TwoNN picks from the documents of the same collection; then the loss
on held-out text. Needs `pip install "kvembed[eval]"`.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ranx import Qrels, Run, evaluate
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kvembed import EncoderConfig, KVEncoder, Pooling, select_layers  # noqa: E402

DEMO = ROOT / "kvembed" / "demo"
LOSS_WINDOW = 512
"""Tokens per row of the loss; each row's first token is not predicted."""
_PLAIN = {
    "last token": Pooling.LAST_TOKEN,
    "mean": Pooling.MEAN,
    "hybrid": Pooling.HYBRID,
}
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Collection:
    """A retrieval set in BEIR layout; documents are title, line break, text."""

    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    judgements: dict[str, dict[str, int]]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO), help="folder in Hugging Face layout (default: kvembed/demo)")
    parser.add_argument("--data", type=Path, required=True, help="folder with ir/NAME, sts/stsb/test.tsv, corpus")
    parser.add_argument("--collections", nargs="*", default=["cranfield", "cisi", "time"])
    parser.add_argument("--max-length", type=int, default=512, help="tokens; what is over is cut")
    parser.add_argument("--prefix-bias", type=float, default=1.0)
    parser.add_argument("--every-layer", action="store_true", help="also re-route in each single layer, for comparison")
    arguments = parser.parse_args()
    table: dict[str, list[str]] = {}
    names: list[str] = []
    for name in arguments.collections:
        collection = read_collection(arguments.data / "ir" / name)
        add_column(table, arguments, collection.documents, partial(ndcg, collection))
        names.append(f"{name} nDCG@10")
    pairs = read_pairs(arguments.data / "sts" / "stsb" / "test.tsv")
    add_column(table, arguments, [*pairs[0], *pairs[1]], partial(spearman, *pairs))
    print_table(["", *names, "stsb test Spearman"], table)
    print(loss_line(arguments.model, arguments.data / "corpus" / "wikipedia-validation.jsonl.xz"))


def add_column(
    table: dict[str, list[str]],
    arguments: argparse.Namespace,
    texts: list[str],
    measure: Callable[[KVEncoder], float],
) -> None:
    """Measure one set under every variant and append to the table's rows."""

    def encoder(layers: tuple[int, ...], pooling: Pooling) -> KVEncoder:
        config = EncoderConfig(
            model=arguments.model,
            layers=layers,
            pooling=pooling,
            prefix_bias=arguments.prefix_bias,
            max_length=arguments.max_length,
        )
        return KVEncoder(config)

    for name, pooling in _PLAIN.items():
        table.setdefault(f"{name}, no re-routing", []).append(f"{measure(encoder((), pooling)):.4f}")
    hybrid = encoder((), Pooling.HYBRID)
    layers = select_layers(hybrid, texts[:1000]).layers
    figure = measure(hybrid.with_layers(layers))
    table.setdefault("hybrid, re-routing (TwoNN)", []).append(f"{figure:.4f} (layers {', '.join(map(str, layers))})")
    for layer in range(hybrid.num_layers) if arguments.every_layer else ():
        row = table.setdefault(f"hybrid, re-routing in layer {layer}", [])
        row.append(f"{measure(hybrid.with_layers([layer])):.4f}")


def read_collection(folder: Path) -> Collection:
    """Read corpus.jsonl, queries.jsonl and qrels.tsv; queries without judgements are left out."""
    documents = _read_jsonl(folder / "corpus.jsonl")
    judgements: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for query, document, score in list(csv.reader(file, delimiter="\t"))[1:]:
            judgements.setdefault(query, {})[document] = int(score)
    queries = [query for query in _read_jsonl(folder / "queries.jsonl") if query["_id"] in judgements]
    return Collection(
        [document["_id"] for document in documents],
        [f"{document.get('title', '')}\n{document['text']}".strip() for document in documents],
        [query["_id"] for query in queries],
        [query["text"] for query in queries],
        judgements,
    )


def read_pairs(path: Path) -> tuple[list[str], list[str], list[float]]:
    """Read score, sentence1, sentence2 columns."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], [float(row["score"]) for row in rows]


def ndcg(collection: Collection, encoder: KVEncoder) -> float:
    """NDCG@10 of cosine ranking."""
    documents = encoder.encode_document(collection.documents)
    similarity = encoder.encode_query(collection.queries) @ documents.T
    run: dict[str, dict[str, float]] = {}
    for query, row in zip(collection.query_ids, similarity, strict=True):
        top = np.argsort(-row)[:100]
        run[query] = {collection.document_ids[index]: float(row[index]) for index in top}
    return float(evaluate(Qrels(collection.judgements), Run(run), "ndcg@10"))


def spearman(left: list[str], right: list[str], scores: list[float], encoder: KVEncoder) -> float:
    """Spearman correlation of cosine and score."""
    cosine = (encoder.encode_document(left) * encoder.encode_document(right)).sum(axis=1)
    return float(spearmanr(cosine, scores).statistic)


@torch.inference_mode()
def loss_line(folder: str, path: Path) -> str:
    """Next-token loss of the stock model over titles and texts, cut into rows of LOSS_WINDOW tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()  # type: ignore[no-untyped-call]
    nats, predicted, tokens, size = 0.0, 0, 0, 0
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            text = f"{record['title']}\n{record['text']}"
            ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            size += len(text.encode())
            tokens += len(ids)
            for row in torch.split(ids, LOSS_WINDOW):
                if len(row) > 1:
                    logits = model(input_ids=row[None]).logits[0, :-1]
                    nats += float(torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
                    predicted += len(row) - 1
    loss = nats / predicted
    bits = loss / math.log(2) * tokens / size
    return f"\n{path.name}: {loss:.4f} nats per token, {bits:.4f} bits per byte ({tokens} tokens, {size} bytes)"


def print_table(header: list[str], table: dict[str, list[str]]) -> None:
    """Print Markdown."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def _read_jsonl(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
