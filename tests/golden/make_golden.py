"""Write the canonical vectors of the bundled model.

    python -m tests.golden.make_golden

The numbers come from transformers' own projections and the eager reference of tests/reference.py, one text at a time,
with prompt, pooling and normalisation written out here; nothing of the package's encoder is used.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from tests.reference import REFERENCE_NAME, reference_states

DEMO_FOLDER = Path(__file__).parents[2] / "kvembed" / "demo"
GOLDEN_FILE = Path(__file__).with_name("demo_vectors.json")
LAYERS = (2,)
PREFIX_BIAS = 1.0
TEXTS = {
    "query": ["compress a file with gzip", "ΔT across a boundary layer?"],
    "document": [
        "Functions that read and write gzipped files. The user of the file doesn't have to worry about compression.",
        "",
        "שלום 🙂 naïve café",
    ],
}


def golden_vectors() -> dict[str, list[list[float]]]:
    """Compute hybrid-pooled unit vectors per role, (n, E) as lists."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    model = AutoModel.from_pretrained(DEMO_FOLDER, dtype=torch.float32, attn_implementation=REFERENCE_NAME).eval()
    vectors: dict[str, list[list[float]]] = {}
    for role, word in (("query", "Query"), ("document", "Context")):
        vectors[role] = []
        for text in TEXTS[role]:
            ids = tokenizer(f"{word}: {text} Compress the {word} in one word:")["input_ids"]
            states = reference_states(model, ids, layers=LAYERS, bias=PREFIX_BIAS)
            pooled = (states[-1] + states.mean(dim=0)) / 2
            vectors[role].append([round(float(x), 7) for x in pooled / pooled.norm()])
    return vectors


if __name__ == "__main__":
    GOLDEN_FILE.write_text(json.dumps(golden_vectors()) + "\n")
