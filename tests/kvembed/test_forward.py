"""One batch through the model: laid end to end where padding would cost, with the vectors of padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kvembed import EncoderConfig, Method, Pooling
from kvembed.backbone import Backbone, load_backbone
from kvembed.forward import ForwardPass
from kvembed.methods import TRAITS
from kvembed.prompts import PromptedText, prompt_for
from tests.architectures import ARCHITECTURES, random_model
from tests.conftest import save_model

MIXED = ["gzip", "the boundary layer of a flat plate " * 12, "wings", "", "heat transfer in a shock tube"]
EVEN = ["the lift of a wing", "the drag of a wing", "the lift of a tail"]


def _backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), revision=None, dtype="float32", device="cpu")


def _config(folder: Path, method: Method, **fields: object) -> EncoderConfig:
    layers: object = (1,) if TRAITS[method].reroutes else ()
    return EncoderConfig(model=str(folder), method=method, layers=layers, normalize=False, **fields)  # type: ignore[arg-type]


def _prompted(forward: ForwardPass, texts: Sequence[str]) -> list[PromptedText]:
    config = forward.config
    return prompt_for(config.method, config.document_template, forward.backbone.tokenizer, 512).apply(texts)


def _rows(model: nn.Module) -> list[int]:
    """Return where the number of rows of each pass will be noted."""
    rows: list[int] = []

    def note(module: nn.Module, args: object, options: dict[str, torch.Tensor]) -> None:
        rows.append(len(options["input_ids"]))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return rows


@pytest.mark.parametrize(
    ("method", "pooling"),
    [
        *((Method.KV_REROUTING, pooling) for pooling in Pooling),
        (Method.LAST_TOKEN, Pooling.LAST_TOKEN),
        (Method.MEAN, Pooling.MEAN),
        (Method.PROMPT_EOL, Pooling.LAST_TOKEN),
        *((Method.ECHO, pooling) for pooling in (Pooling.MEAN, Pooling.LAST_TOKEN)),
    ],
)
def test_forward_of_mixed_lengths_is_one_row_with_the_vectors_of_padded_rows(
    tiny_model_dir: Path, method: Method, pooling: Pooling
) -> None:
    """Echo pools a part of each text, which lies elsewhere in a packed row than in a padded one."""
    forward = ForwardPass(_config(tiny_model_dir, method, pooling=pooling), _backbone(tiny_model_dir))
    texts = _prompted(forward, MIXED)
    assert forward.packable
    rows = _rows(forward.backbone.model)
    packed = forward(texts)
    assert rows == [1]
    padded = torch.cat([forward([text]) for text in texts])
    assert (packed - padded).abs().max() <= 1e-5 * padded.abs().max()


def test_forward_of_even_lengths_pads(tiny_model_dir: Path) -> None:
    """Packed, the attention runs text by text, which padding of next to nothing does not make up for."""
    forward = ForwardPass(_config(tiny_model_dir, Method.KV_REROUTING), _backbone(tiny_model_dir))
    rows = _rows(forward.backbone.model)
    forward(_prompted(forward, EVEN))
    assert rows == [3]


def test_forward_of_the_reference_form_pads(tiny_model_dir: Path) -> None:
    """Over one row the concatenated form would take memory quadratic in all the texts together."""
    config = _config(tiny_model_dir, Method.KV_REROUTING)
    forward = ForwardPass(config, _backbone(tiny_model_dir), "concatenated")
    rows = _rows(forward.backbone.model)
    forward(_prompted(forward, MIXED))
    assert rows == [5]


def test_forward_of_a_model_that_mixes_along_the_row_pads(tmp_path: Path) -> None:
    """A recurrence would carry the texts before a text into it."""
    model_type, fields = ARCHITECTURES["Qwen3.5, linear attention"]
    model = random_model(model_type, {**fields, "vocab_size": 512}, "sdpa")
    folder = save_model(model, tmp_path / "hybrid")
    backbone = _backbone(folder)
    forward = ForwardPass(replace(_config(folder, Method.KV_REROUTING), layers=backbone.reroutable[:1]), backbone)
    texts = _prompted(forward, MIXED)
    assert not forward.packable
    rows = _rows(backbone.model)
    vectors = forward(texts)
    assert rows == [5]
    alone = torch.cat([forward([text]) for text in texts])
    assert (vectors - alone).abs().max() <= 1e-4 * alone.abs().max()
