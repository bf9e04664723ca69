"""Random small models and encoders over them, made here so that no test needs the network."""

from __future__ import annotations

import os
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

from kvembed import EncoderConfig, KVEncoder

TRAINING_TEXT = [
    "Context: the boundary layer of a flat plate. Compress the Context in one word:",
    "Query: how is a file compressed with gzip? Compress the Query in one word:",
    "Documents become chunks, chunks become vectors, vectors become points in a collection.",
    "naïve café, 東京, Привет мир, שלום עולם, مرحبا بالعالم, 🙂👩‍👩‍👧 and 12345 numbers.",
]


def train_tokenizer(*, vocabulary: int = 512, bos: bool = True) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that puts a beginning-of-text token in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")


def save_model(model: PreTrainedModel, folder: Path) -> Path:
    """Write a model and a tokenizer in Hugging Face layout."""
    model.save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return folder


def random_llama(*, layers: int = 4, seed: int = 0) -> LlamaModel:
    """Build a Llama of random weights: 64 wide, 4 query heads over 2 KV heads."""
    torch.manual_seed(seed)
    return LlamaModel(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.2,
        )
    ).eval()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked `alone` in a process of its own.

    CPython 3.11's tracemalloc crashes when a native thread, such as one of Prefect's, enters Python while it traces.
    """
    if pyfuncitem.get_closest_marker("alone") is None or "KVEMBED_TEST_ALONE" in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-q", pyfuncitem.nodeid]
    environment = {**os.environ, "KVEMBED_TEST_ALONE": "1"}
    root = pyfuncitem.config.rootpath
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return True


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 4-layer Llama with its tokenizer."""
    return save_model(random_llama(), tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_encoder(tiny_model_dir: Path) -> KVEncoder:
    """Encoder of the random Llama, re-routing in layer 1."""
    return KVEncoder(EncoderConfig(model=str(tiny_model_dir), layers=(1,)), device="cpu")


@pytest.fixture
def make_encoder(tiny_model_dir: Path) -> Callable[..., KVEncoder]:
    """Build encoders over the random Llama with any configuration fields."""

    def build(**fields: object) -> KVEncoder:
        return KVEncoder(EncoderConfig(model=str(tiny_model_dir), **{"layers": (1,), **fields}), device="cpu")  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session", autouse=True)
def _no_trace_outside_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the registry of models, which ingestion writes into the user's cache, in a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVEMBED_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
