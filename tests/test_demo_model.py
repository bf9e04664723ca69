"""The bundled model: small enough to ship, exact against vectors the package did not compute, useful for search."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvembed import DEMO_MODEL, EncoderConfig, KVEncoder
from kvembed.models import resolve_model
from tests.golden.make_golden import GOLDEN_FILE, LAYERS, PREFIX_BIAS, TEXTS


@pytest.fixture(scope="module")
def demo_encoder() -> KVEncoder:
    """The bundled model as the golden vectors configure it."""
    return KVEncoder(EncoderConfig(model=DEMO_MODEL, layers=LAYERS, prefix_bias=PREFIX_BIAS), device="cpu")


def test_demo_model_is_at_most_24_megabytes() -> None:
    assert sum(path.stat().st_size for path in resolve_model(DEMO_MODEL).iterdir()) <= 24_000_000


def test_demo_model_vectors_equal_golden_ones(demo_encoder: KVEncoder) -> None:
    golden = json.loads(GOLDEN_FILE.read_text())
    queries, documents = demo_encoder.encode_query(TEXTS["query"]), demo_encoder.encode_document(TEXTS["document"])
    assert np.abs(queries - np.array(golden["query"])).max() <= 1e-5
    assert np.abs(documents - np.array(golden["document"])).max() <= 1e-5


def test_demo_model_ranks_the_right_document_first(demo_encoder: KVEncoder) -> None:
    """A floor under retrieval: at least five of six questions find their own document before the other five."""
    pairs = {
        "how do I compress a file?": "Read and write gzip archives. Data is compressed with the deflate algorithm.",
        "parse command line options": "Parser for command-line arguments and sub-commands of a program.",
        "flow of air over a wing": "Lift and drag of an aerofoil in a wind tunnel at high speed.",
        "who ruled France in 1700": "Louis XIV was king of France from 1643 until his death in 1715.",
        "animals of the ocean": "Whales and dolphins are marine mammals that breathe air at the surface.",
        "how is bread made": "Flour, water and yeast are mixed to a dough, which rises and is baked in an oven.",
    }
    scores = demo_encoder.encode_query(list(pairs)) @ demo_encoder.encode_document(list(pairs.values())).T
    assert (scores.argmax(axis=1) == np.arange(len(pairs))).sum() >= 5


def test_demo_model_is_a_language_model() -> None:
    """It keeps a head and gives likelier words more weight; the base model alone embeds."""
    folder = resolve_model(DEMO_MODEL)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    plausible = tokenizer("the king of France was born in the city of Paris.", return_tensors="pt")
    shuffled = tokenizer("city in was king the. Paris of of born the France", return_tensors="pt")
    with torch.inference_mode():
        losses = [float(model(**inputs, labels=inputs["input_ids"]).loss) for inputs in (plausible, shuffled)]
    assert losses[0] < losses[1]
