"""The finished model as files: half-precision weights, configuration, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo_training.tokens import END_OF_TEXT, PADDING


def publish(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> int:
    """Write the model in Hugging Face layout; each file is replaced in one step.

    Returns:
        Bytes of all files together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_diff_dict()
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    weights = {
        name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in model.state_dict().items()
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PADDING,
        "model_max_length": model.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    partial = folder / ".partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")
    texts = {
        "config.json": json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, indent=2, sort_keys=True),
        "tokenizer_config.json": json.dumps(tokenizer_config, indent=2, sort_keys=True),
        "tokenizer.json": tokenizer.to_str(pretty=False),
    }
    for name, text in texts.items():
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(folder / name)
    return sum((folder / name).stat().st_size for name in ("model.safetensors", *texts))
