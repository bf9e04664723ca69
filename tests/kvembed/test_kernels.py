"""Every kernel against plain matrix products on random shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import varlen

from kvembed import cpu_kernels
from kvembed.attention_inputs import AttentionInputs, Packing
from kvembed.cpu_kernels import (
    blockwise_flash_attention,
    blockwise_matrix_attention,
    cpu_attention,
    cpu_flash_attention,
)
from kvembed.cuda_kernels import (
    cuda_attention,
    cuda_efficient_attention,
    cuda_flash_attention,
    cuda_flex_attention,
    cuda_varlen_attention,
)
from kvembed.kernels import Kernel, attention_with_lse, math_attention
from kvembed.rerouting import blended_attention, concatenated_attention

CPU = torch.device("cpu")


@st.composite
def _inputs(
    draw: st.DrawFn,
    *,
    packed: bool | None = None,
    windows: bool = True,
    softcaps: bool = True,
    masks: bool = True,
    value_sizes: bool = True,
    sizes: tuple[int, ...] = (8, 16, 24),
) -> AttentionInputs:
    """Random attention: padded or packed rows, groups, head sizes, windows, soft caps, sinks, masks and scales."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)) if packed is not False else []
    lengths = lengths if packed or draw(st.booleans()) else []
    batch, tokens = (1, sum(lengths)) if lengths else (draw(st.integers(1, 3)), draw(st.integers(1, 150)))
    kv_heads, group, size = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from(sizes))
    value_size = draw(st.sampled_from([size, 8, 16])) if value_sizes else size
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    heads = kv_heads * group
    window = draw(st.one_of(st.none(), st.integers(1, 160))) if windows else None
    own_mask = masks and window is None and not lengths and draw(st.booleans())
    return AttentionInputs(
        # Laid out as models do: tokens before heads.
        torch.randn(batch, tokens, heads, size, generator=generator).transpose(1, 2) * 2,
        torch.randn(batch, tokens, kv_heads, size, generator=generator).transpose(1, 2),
        torch.randn(batch, tokens, kv_heads, value_size, generator=generator).transpose(1, 2),
        scale=draw(st.sampled_from([0.2, size**-0.5])),
        mask=_some_mask(batch, tokens, generator) if own_mask else None,
        softcap=draw(st.sampled_from([None, 3.0])) if softcaps else None,
        sinks=draw(st.sampled_from([None, torch.randn(heads, generator=generator)])),
        window=window,
        packing=Packing(tuple(lengths), CPU) if lengths else None,
    )


def _some_mask(batch: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Another mask per row, in which every query sees at least itself."""
    seen = torch.rand(batch, 1, tokens, tokens, generator=generator) < 0.7
    return seen.tril() | torch.eye(tokens, dtype=torch.bool)


def _on(inputs: AttentionInputs, device: str, dtype: torch.dtype) -> AttentionInputs:
    """The same attention elsewhere, without sinks, which the dispatch adds to any kernel."""
    query, key, value = (tensor.to(device, dtype) for tensor in (inputs.query, inputs.key, inputs.value))
    mask = None if inputs.mask is None else inputs.mask.to(device)
    packing = None if inputs.packing is None else Packing(inputs.packing.lengths, torch.device(device))
    return replace(inputs, query=query, key=key, value=value, mask=mask, packing=packing, sinks=None)


def _assert_equal(kernel: Kernel, inputs: AttentionInputs, tolerance: float = 1e-5) -> None:
    plain = replace(inputs, sinks=None)
    for got, expected in zip(kernel(plain), math_attention(plain), strict=True):
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(inputs=_inputs(packed=False, windows=False, softcaps=False))
def test_cpu_flash_equals_matrix_products(inputs: AttentionInputs) -> None:
    """PyTorch's own operator and ours: neither is made from the other."""
    _assert_equal(cpu_flash_attention, inputs)


@settings(max_examples=100, deadline=None)
@given(inputs=_inputs())
def test_cpu_attention_equals_matrix_products(inputs: AttentionInputs) -> None:
    _assert_equal(cpu_attention, inputs)


@settings(max_examples=40, deadline=None)
@given(inputs=_inputs())
def test_blockwise_products_equal_matrix_products(inputs: AttentionInputs) -> None:
    _assert_equal(blockwise_matrix_attention, inputs)


@settings(max_examples=40, deadline=None)
@given(inputs=_inputs(packed=False, softcaps=False, masks=False))
def test_blockwise_flash_equals_matrix_products(inputs: AttentionInputs) -> None:
    _assert_equal(blockwise_flash_attention, inputs)


@pytest.mark.parametrize("window", [1, 2, 63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize("tokens", [64, 129, 192])
def test_window_at_the_edge_of_a_block_equals_matrix_products(window: int, tokens: int) -> None:
    """Blocks are of 64 queries: one key too many or too few shows where a window ends beside a block."""
    assert cpu_kernels._ROWS == 64
    torch.manual_seed(0)
    inputs = AttentionInputs(*(torch.randn(1, 2, tokens, 8) for _ in range(3)), scale=0.3, window=window)
    _assert_equal(cpu_attention, inputs)
    _assert_equal(cpu_attention, replace(inputs, softcap=2.0))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(max_examples=10, deadline=None)
@given(inputs=_inputs(masks=False))
def test_flex_equals_matrix_products(inputs: AttentionInputs) -> None:
    """Uncompiled on the CPU: the mask, cap and log-sum-exp that the CUDA path compiles are right."""
    with torch.inference_mode():
        _assert_equal(cuda_flex_attention, inputs)


def _varlen_by_the_book(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: varlen.AuxRequest,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> tuple[Tensor, Tensor]:
    """FlashAttention's definition of its arguments: left counts the keys before the query's own."""
    assert return_aux.lse
    assert starts.dtype == torch.int32
    assert torch.equal(starts, key_starts)
    assert max_q == max_k == int(torch.diff(starts).max())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = window_size
    assert right == 0
    groups = query.shape[1] // key.shape[1]
    outputs, sums = [], []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (tensor[start:stop].transpose(0, 1) for tensor in (query, key, value))
        logits = q @ k.repeat_interleave(groups, 0).transpose(-1, -2) * scale
        i, j = torch.arange(stop - start)[:, None], torch.arange(stop - start)[None, :]
        hidden = (j > i + right) | ((j < i - left) if left >= 0 else torch.zeros(()).bool())
        logits = logits.masked_fill(hidden, -torch.inf)
        outputs.append((logits.softmax(-1) @ v.repeat_interleave(groups, 0)).transpose(0, 1))
        sums.append(logits.logsumexp(-1))
    return torch.cat(outputs), torch.cat(sums, dim=1)


@settings(max_examples=40, deadline=None)
@given(inputs=_inputs(softcaps=False, masks=False))
def test_varlen_is_asked_for_the_same_attention(inputs: AttentionInputs) -> None:
    """What CUDA is handed, read as its documentation says, is the layer's attention."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", _varlen_by_the_book)
        _assert_equal(cuda_varlen_attention, inputs)


def test_varlen_in_another_layout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """ROCm returns the log-sum-exp padded per text; read as packed it would re-route by other tokens' sums."""

    def padded(query: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return query, torch.zeros(2, 4, 5)

    monkeypatch.setattr(varlen, "varlen_attn", padded)
    query = torch.randn(1, 4, 8, 16)
    with pytest.raises(RuntimeError, match=r"log-sum-exp \(2, 4, 5\), not \(4, 8\)"):
        cuda_varlen_attention(AttentionInputs(query, query, query, 0.25, packing=Packing((3, 5), CPU)))


@settings(max_examples=80, deadline=None)
@given(inputs=_inputs(), bias=st.floats(-5, 5), data=st.data())
def test_blend_equals_concatenated_slot(inputs: AttentionInputs, bias: float, data: st.DataObject) -> None:
    """Windows, soft-capping, sinks, grouped heads, packed texts and any last position: the identity is exact."""
    batch, _, tokens, _ = inputs.query.shape
    if inputs.packing is None:
        last = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=batch, max_size=batch)))
    else:
        last = inputs.packing.last_positions
    blended = blended_attention(inputs, last, bias)
    concatenated = concatenated_attention(inputs, last, bias)
    assert torch.allclose(blended, concatenated, rtol=1e-5, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(inputs=_inputs(packed=True), bias=st.floats(-3, 3))
def test_packed_texts_equal_texts_alone(inputs: AttentionInputs, bias: float) -> None:
    """What lies beside a text in the row is not there for it, re-routed or not."""
    assert inputs.packing is not None
    blended = blended_attention(inputs, inputs.packing.last_positions, bias)
    for start, stop in inputs.packing.spans():
        alone = blended_attention(inputs.between(start, stop), torch.tensor([stop - start - 1]), bias)
        assert torch.allclose(blended[:, :, start:stop], alone, rtol=1e-5, atol=1e-5)


def test_attention_with_a_mask_and_a_window_is_an_error() -> None:
    query = torch.randn(1, 2, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool)[None, None]
    with pytest.raises(ValueError, match="a mask of its own"):
        AttentionInputs(query, query, query, 0.3, mask, window=2)
    with pytest.raises(ValueError, match="6 packed tokens arrived as 1 rows of 5"):
        AttentionInputs(query, query, query, 0.3, packing=Packing((2, 4), CPU))


def test_attention_with_very_negative_bias_equals_plain_attention() -> None:
    torch.manual_seed(0)
    inputs = AttentionInputs(torch.randn(2, 4, 9, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16), 0.25)
    last = torch.tensor([8, 3])
    assert torch.equal(blended_attention(inputs, last, -torch.inf), attention_with_lse(inputs)[0])


def test_attention_with_large_bias_returns_the_last_value() -> None:
    """The other end of the slot: all weight on v_n, finite, for every query of the row."""
    torch.manual_seed(0)
    inputs = AttentionInputs(torch.randn(2, 4, 9, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16), 0.25)
    blended = blended_attention(inputs, torch.tensor([8, 3]), 1e4)
    for row, position in enumerate((8, 3)):
        expected = inputs.value[row, :, position].repeat_interleave(2, dim=0)[:, None].expand(4, 9, 16)
        assert torch.allclose(blended[row], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fields", [{}, {"window": 7}, {"softcap": 5.0}, {"packing": Packing((20, 46), CPU)}], ids=str)
def test_blend_in_half_precision_is_computed_in_float32(dtype: torch.dtype, fields: dict[str, object]) -> None:
    """Half-precision inputs lose their own rounding and no more, and the log-sum-exp stays in float32."""
    torch.manual_seed(0)
    batch = 1 if "packing" in fields else 2
    shapes = ((batch, 4, 66, 16), (batch, 2, 66, 16), (batch, 2, 66, 16))
    half = AttentionInputs(*(torch.randn(shape).to(dtype) for shape in shapes), scale=0.25, **fields)  # type: ignore[arg-type]
    wide = replace(half, query=half.query.float(), key=half.key.float(), value=half.value.float())
    last = torch.tensor([65, 10]) if half.packing is None else half.packing.last_positions
    blended = blended_attention(half, last, 1.0)
    assert attention_with_lse(half)[1].dtype == torch.float32
    assert blended.dtype == dtype
    assert (blended.float() - concatenated_attention(wide, last, 1.0)).abs().max() < 0.02


def _compared_on_cuda(kernel: Kernel, inputs: AttentionInputs, dtype: torch.dtype, tolerance: float) -> None:
    """The GPU in its precision against float32 products of the same rounded numbers on the CPU."""
    rounded = _on(inputs, "cpu", dtype)
    expected = math_attention(_on(rounded, "cpu", torch.float32))
    with torch.inference_mode():
        results = kernel(_on(rounded, "cuda", dtype))
    for got, want in zip(results, expected, strict=True):
        assert torch.allclose(got.float().cpu(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cuda_flash_equals_matrix_products(dtype: torch.dtype, tolerance: float, data: st.DataObject) -> None:
    inputs = data.draw(_inputs(packed=False, windows=False, softcaps=False, masks=False, value_sizes=False))
    _compared_on_cuda(cuda_flash_attention, inputs, dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cuda_efficient_equals_matrix_products(dtype: torch.dtype, tolerance: float, data: st.DataObject) -> None:
    inputs = data.draw(_inputs(packed=False, windows=False, softcaps=False))
    _compared_on_cuda(cuda_efficient_attention, inputs, dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cuda_varlen_equals_matrix_products(dtype: torch.dtype, tolerance: float, data: st.DataObject) -> None:
    _compared_on_cuda(cuda_varlen_attention, data.draw(_inputs(softcaps=False, masks=False)), dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_cuda_flex_equals_matrix_products(dtype: torch.dtype, tolerance: float, data: st.DataObject) -> None:
    _compared_on_cuda(cuda_flex_attention, data.draw(_inputs(masks=False, sizes=(8, 16))), dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cuda_dispatch_equals_matrix_products(dtype: torch.dtype, data: st.DataObject) -> None:
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    _compared_on_cuda(cuda_attention, data.draw(_inputs()), dtype, tolerance)


@pytest.mark.gpu
@settings(max_examples=30, deadline=None)
@given(inputs=_inputs(), bias=st.floats(-3, 3))
def test_cuda_blend_equals_concatenated_slot_on_cpu(inputs: AttentionInputs, bias: float) -> None:
    def last(on: AttentionInputs) -> Tensor:
        rows, _, tokens, _ = on.query.shape
        return torch.full((rows,), tokens - 1) if on.packing is None else on.packing.last_positions

    moved = _on(inputs, "cuda", torch.float32)
    with torch.inference_mode():
        got = blended_attention(moved, last(moved).cuda(), bias).cpu()
    plain = replace(inputs, sinks=None)
    assert torch.allclose(got, concatenated_attention(plain, last(plain), bias), rtol=1e-3, atol=1e-3)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[[AttentionInputs], str]:
    """Name the CUDA kernel that the dispatch takes, without running it."""
    names = ("flash", "varlen", "efficient", "flex")
    for name in names:
        monkeypatch.setattr(f"kvembed.cuda_kernels.cuda_{name}_attention", lambda _, name=name: name)
    monkeypatch.setattr("kvembed.cuda_kernels.blockwise_matrix_attention", lambda _: "products")
    return lambda inputs: str(cuda_attention(inputs))


@pytest.mark.parametrize(
    ("dtype", "fields", "expected"),
    [
        (torch.bfloat16, {}, "flash"),
        (torch.float16, {"window": 4}, "varlen"),
        (torch.bfloat16, {"window": 400}, "flash"),
        (torch.bfloat16, {"packing": Packing((4, 5), CPU)}, "varlen"),
        (torch.bfloat16, {"packing": Packing((4, 5), CPU), "softcap": 5.0}, "flex"),
        (torch.bfloat16, {"mask": torch.ones(1, 1, 9, 9).bool()}, "efficient"),
        (torch.float32, {}, "efficient"),
        (torch.float32, {"window": 4}, "flex"),
        (torch.float32, {"softcap": 5.0}, "flex"),
        (torch.float32, {"softcap": 5.0, "mask": torch.ones(1, 1, 9, 9).bool()}, "products"),
    ],
    ids=str,
)
def test_cuda_dispatch_takes_a_kernel_that_serves(
    chosen: Callable[[AttentionInputs], str], dtype: torch.dtype, fields: dict[str, object], expected: str
) -> None:
    query = torch.zeros(1, 2, 9, 16, dtype=dtype)
    assert chosen(AttentionInputs(query, query, query, 0.25, **fields)) == expected  # type: ignore[arg-type]
