"""Layers chosen from a sample: the least dimension after the first fifth, a tenth of the depth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from kvembed import DegenerateStatesError, KVEncoder, select_layers
from kvembed.intrinsic_dimension import intrinsic_dimension
from kvembed.layer_selection import first_candidate, layer_window
from tests.conftest import random_llama, save_model

SAMPLE = [f"{subject} {verb} number {i}" for i in range(15) for subject in ("a wing", "gzip") for verb in ("has", "is")]


def test_select_layers_uses_last_token_states_of_the_stock_model(tiny_encoder: KVEncoder, tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModel.from_pretrained(tiny_model_dir, attn_implementation="eager").eval()
    states = []
    for text in SAMPLE:
        inputs = tokenizer(f"Context: {text} Compress the Context in one word:", return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs, output_hidden_states=True).hidden_states
        states.append(torch.stack([layer[0, -1] for layer in hidden[1:]]).numpy())
    expected = [intrinsic_dimension(layer) for layer in np.stack(states, axis=1)]
    profile = select_layers(tiny_encoder, SAMPLE)
    assert profile.dimensions == pytest.approx(expected, rel=0.02)
    assert profile.texts == len(SAMPLE)
    assert profile.layers == (1 + int(np.argmin(expected[1:])),)


def test_select_layers_counts_repeated_texts_once(tiny_encoder: KVEncoder) -> None:
    assert select_layers(tiny_encoder, SAMPLE + SAMPLE[:30]).texts == len(SAMPLE)


def test_select_layers_is_the_same_whatever_is_configured(make_encoder: Callable[..., KVEncoder]) -> None:
    chosen = {
        select_layers(encoder, SAMPLE).dimensions
        for encoder in (make_encoder(layers="auto"), make_encoder(layers=(3,)), make_encoder(layers=(1, 2)))
    }
    assert len(chosen) == 1


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b"] * 50])
def test_select_layers_of_few_texts_is_an_error(tiny_encoder: KVEncoder, texts: list[str]) -> None:
    with pytest.raises(DegenerateStatesError, match=r"distinct texts are too few .*; give at least 20") as caught:
        select_layers(tiny_encoder, texts)
    assert "name the layers" not in str(caught.value), "`kvembed layers` takes none"


@pytest.mark.parametrize(("layers", "expected"), [(1, 0), (2, 1), (4, 1), (10, 2), (28, 5), (36, 7)])
def test_first_candidate_leaves_out_the_first_fifth(layers: int, expected: int) -> None:
    assert first_candidate(layers) == expected


def test_layer_window_spans_a_tenth_of_the_depth_and_ends_at_the_last_layer(tmp_path: Path) -> None:
    encoder = KVEncoder.from_pretrained(str(save_model(random_llama(layers=20), tmp_path)), device="cpu")
    assert layer_window(encoder, 6) == (6, 7, 8)
    assert layer_window(encoder, 19) == (19,)


def test_profile_is_json_and_a_picture(tiny_encoder: KVEncoder, tmp_path: Path) -> None:
    profile = select_layers(tiny_encoder, SAMPLE)
    record = json.loads(json.dumps(profile.to_dict()))
    assert record["layers"] == list(profile.layers)
    profile.plot(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes()[:4] == b"\x89PNG"
