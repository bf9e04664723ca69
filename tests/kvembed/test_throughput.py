"""What keeps a device busy and within its memory: batches, halves of batches, tokens in advance."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kvembed import EncoderConfig, KVEncoder, Method, TextTooLargeError
from kvembed.backbone import load_backbone
from kvembed.batching import Batch, Budget, batches_within, padded_tokens
from kvembed.forward import ForwardPass
from kvembed.memory import PassMemory, is_out_of_memory, made_up
from kvembed.prompts import CompressionPrompt, PromptedText
from kvembed.throughput import OneDeviceRunner
from kvembed.tokenising import tokenised_ahead
from tests.kvembed.odd_passes import Hungry

CPU = torch.device("cpu")
TEXTS = [f"text {number} " + "of a flat plate " * (number % 23) for number in range(200)]
FULL = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
LENGTHS = st.lists(st.lists(st.integers(1, 60), max_size=20), max_size=6)


def items(lengths: Sequence[int], start: int = 0) -> Batch:
    return [(start + place, PromptedText([start + place + 100] * length, 0)) for place, length in enumerate(lengths)]


def sliced(lengths: Sequence[Sequence[int]]) -> list[Batch]:
    starts = np.cumsum([0, *map(len, lengths)])
    return [items(slice_, int(start)) for slice_, start in zip(lengths, starts, strict=False)]


def run(work: Hungry, lengths: Sequence[int], batch_tokens: int) -> tuple[dict[int, np.ndarray], Budget]:
    runner = OneDeviceRunner(work.bind(None), CPU)  # type: ignore[arg-type]
    budgets: list[Budget] = []

    def batches(budget: Budget) -> Iterator[Batch]:
        budgets.append(budget)
        return batches_within(budget, [items(lengths)])

    found = {
        position: value
        for done in runner.run(batches, batch_tokens, 512)
        for position, value in zip(done.positions, done.values, strict=True)
    }
    return found, budgets[0]


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_batches_within_hold_each_text_once_under_the_budget_longest_first(
    lengths: list[list[int]], budget: int
) -> None:
    batches = list(batches_within(Budget(budget), sliced(lengths)))
    expected = [item for slice_ in sliced(lengths) for item in slice_]
    assert sorted((item for batch in batches for item in batch), key=lambda item: item[0]) == expected
    for batch in batches:
        sizes = [len(text.ids) for _, text in batch]
        assert sizes == sorted(sizes, reverse=True)
        assert padded_tokens(batch) <= budget or len(batch) == 1


@given(lengths=LENGTHS)
def test_batches_within_take_a_lowered_budget_from_the_next_batch_on(lengths: list[list[int]]) -> None:
    budget = Budget(100)
    for place, batch in enumerate(batches_within(budget, sliced(lengths))):
        assert padded_tokens(batch) <= budget.tokens or len(batch) == 1
        if place == 0:
            budget.lower(30)


@pytest.mark.parametrize(("budget", "slices_read"), [(200, 7), (4096, 7), (50_000, 10)])
def test_batches_within_wait_for_a_bounded_number_of_tokens(budget: int, slices_read: int) -> None:
    """Were all slices read first, memory would grow with the number of texts and the device would wait for all."""
    read = 0

    def slices() -> Iterator[Batch]:
        nonlocal read
        for slice_ in sliced([[100] * 100] * 50):
            read += 1
            yield slice_

    next(batches_within(Budget(budget), slices()))
    assert read == slices_read


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), limit=st.integers(50, 400))
def test_run_out_of_memory_splits_and_goes_on(lengths: list[int], limit: int) -> None:
    """Every text is computed once, in batches that fit; what did not fit is never tried at its size again."""
    found, budget = run(Hungry(limit), lengths, 1000)
    assert {place: value[0] for place, value in found.items()} == {place: place + 100 for place in range(len(lengths))}
    assert max(value[1] for value in found.values()) <= limit
    if budget.splits:
        assert budget.tokens < 1000


def test_run_out_of_memory_keeps_the_lowered_budget() -> None:
    _, budget = run(Hungry(100), [10] * 1000, 800)
    assert (budget.tokens, budget.splits) == (
        100,
        3 + 4,
    )  # the first of 80 texts, one part after the other, and no more


def test_run_one_text_that_does_not_fit_is_named() -> None:
    with pytest.raises(TextTooLargeError, match=r"cpu has no memory for texts\[2\] of 90 tokens") as caught:
        run(Hungry(64), [10, 20, 90, 5], 1000)
    assert (caught.value.index, caught.value.tokens) == (2, 90)
    assert "can't allocate memory" in str(caught.value.__cause__)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_run_other_failure_is_raised_as_it_came(error: Exception) -> None:
    """A blanket RuntimeError would try a bug's batch again and again down to one text, and then blame the memory."""
    calls = []

    def compute(texts: Sequence[PromptedText]) -> Tensor:
        calls.append(len(texts))
        raise error

    runner = OneDeviceRunner(compute, CPU)
    with pytest.raises(type(error)) as caught:
        list(runner.run(lambda budget: batches_within(budget, [items([4] * 8)]), 1000, 4))
    assert caught.value is error
    assert calls == [8]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError(FULL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
        (OSError("Cannot allocate memory"), False),
    ],
    ids=str,
)
def test_is_out_of_memory_tells_allocators_from_other_failures(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_is_out_of_memory_knows_this_machines_allocator() -> None:
    """The message above is PyTorch's own, and an upgrade may reword it."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_encode_out_of_memory_changes_no_vector_and_is_reported_once(
    make_encoder: Callable[..., KVEncoder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = make_encoder()
    whole = encoder.encode_counted(TEXTS, "document")
    real = ForwardPass.__call__

    def limited(self: ForwardPass, texts: Sequence[PromptedText]) -> Tensor:
        if len(texts) * max(len(text.ids) for text in texts) > 700:
            raise RuntimeError(FULL)
        return real(self, texts)

    monkeypatch.setattr(ForwardPass, "__call__", limited)
    with caplog.at_level(logging.WARNING, logger="kvembed"):
        split = encoder.encode_counted(TEXTS, "document")
    assert np.abs(split.vectors - whole.vectors).max() <= 1e-5
    assert np.array_equal(split.tokens, whole.tokens)
    assert (whole.splits, split.splits > 0) == (0, True)
    [record] = caplog.records
    assert "cpu ran out of memory" in record.message
    assert "give batch_tokens=" in record.message


def test_encode_results_are_float32_arrays_in_input_order(make_encoder: Callable[..., KVEncoder]) -> None:
    encoder = make_encoder()
    texts = [*TEXTS[::-1], *TEXTS]
    found = encoder.encode_counted(texts, "document")
    alone = np.concatenate([encoder.encode_document([text]) for text in texts[::37]])
    assert (found.vectors.dtype, found.tokens.dtype) == (np.float32, np.int64)
    assert np.abs(found.vectors[::37] - alone).max() <= 1e-5
    assert found.tokens[0] == found.tokens[-1]


class CountingPrompt(CompressionPrompt):
    """Notes how many texts it was given, and fails on one of them."""

    def __init__(self, poison: str = "") -> None:
        self.texts = 0
        self.poison = poison

    def apply(self, texts: Sequence[str]) -> list[PromptedText]:
        self.texts += len(texts)
        if self.poison and any(self.poison in text for text in texts):
            raise LookupError(f"no token for {self.poison}")
        return [PromptedText([len(text)] * len(text), 0) for text in texts]


def tokenising_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kvembed")]


def test_tokenised_ahead_gives_each_text_once_roughly_longest_first() -> None:
    texts = [f"{number} " * (1 + number % 90) for number in range(2000)]
    slices = list(tokenised_ahead(CountingPrompt(), texts))
    found = [(position, text.ids[0]) for slice_ in slices for position, text in slice_]
    assert sorted(found) == [(position, len(text)) for position, text in enumerate(texts)]
    assert [length for _, length in found] == sorted((length for _, length in found), reverse=True)
    assert max(map(len, slices)) <= 128


def test_tokenised_ahead_of_large_texts_takes_few_at_a_time() -> None:
    """A hundred documents of a megabyte each, tokenised at once, would need gigabytes."""
    slices = list(tokenised_ahead(CountingPrompt(), ["x" * 600_000] * 5))
    assert [len(slice_) for slice_ in slices] == [1] * 5


def test_tokenised_ahead_stays_a_bounded_number_of_texts_ahead() -> None:
    prompt = CountingPrompt()
    slices = tokenised_ahead(prompt, ["some text"] * 20_000)
    next(slices)
    for thread in threading.enumerate():
        if thread.name.startswith("kvembed"):
            thread.join(0.05)
    assert prompt.texts <= 11 * 128
    slices.close()
    assert not tokenising_threads()


def test_tokenised_ahead_raises_the_tokenizers_error_as_it_came() -> None:
    texts = ["some text"] * 900 + ["bad"]
    with pytest.raises(LookupError, match="no token for bad"):
        list(tokenised_ahead(CountingPrompt("bad"), texts))
    assert not tokenising_threads()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_encode_that_is_interrupted_leaves_no_thread(
    make_encoder: Callable[..., KVEncoder], monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    encoder = make_encoder()

    def interrupted(self: ForwardPass, texts: Sequence[PromptedText]) -> Tensor:
        assert tokenising_threads()
        raise interruption

    monkeypatch.setattr(ForwardPass, "__call__", interrupted)
    with pytest.raises(interruption):
        encoder.encode_document(TEXTS * 20)
    assert not tokenising_threads()


def test_encode_of_few_texts_starts_no_thread(
    make_encoder: Callable[..., KVEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query is one text, and a thread would cost more than its tokens."""
    encoder = make_encoder()
    started: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", lambda self: started.append(self.name))
    encoder.encode_query(["gzip"])
    assert not started


def test_pass_memory_gives_the_tokens_that_fit() -> None:
    """2 GB before the first token and 1 MB per token: 10 GB, of which 8 count, hold 6,000 tokens."""
    memory = PassMemory.through((2048, 2_000_000_000 + 2_048_000_000), (4096, 2_000_000_000 + 4_096_000_000))
    assert memory == PassMemory(2e9, 1e6)
    assert memory.tokens_in(10_000_000_000) == 5 * 1024
    assert memory.tokens_in(1_000_000_000) == 1024
    assert memory.tokens_in(10**13) == 65536


@pytest.mark.parametrize("method", Method)
def test_texts_that_memory_is_measured_with_can_be_computed_by_every_method(
    tiny_model_dir: Path, method: Method
) -> None:
    """Echo and Token Prepending ask where their parts are: without positions a GPU would refuse its first call."""
    layers = (1,) if method is Method.KV_REROUTING else ()
    backbone = load_backbone(str(tiny_model_dir), revision=None, dtype="float32", device="cpu")
    forward = ForwardPass(EncoderConfig(model=str(tiny_model_dir), method=method, layers=layers), backbone)
    vectors = forward(made_up(3, 32))
    assert torch.equal(vectors[0], vectors[1])
    assert torch.isfinite(vectors).all()


@pytest.mark.gpu
def test_budget_on_cuda_fits_and_the_vectors_are_those_of_small_batches(tiny_model_dir: str) -> None:
    encoder = KVEncoder(EncoderConfig(model=str(tiny_model_dir), layers=(1,)), device="cuda:0")
    found = encoder.encode_counted(TEXTS, "document")
    alone = np.concatenate([encoder.encode_document([text]) for text in TEXTS[::37]])
    assert found.splits == 0
    assert np.abs(found.vectors[::37] - alone).max() <= 1e-4
