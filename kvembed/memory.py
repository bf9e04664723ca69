"""How many tokens a device has memory for, and what running out of it looks like."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kvembed.prompts import PromptedText

CPU_TOKENS = 1024
"""What the layers pass on then stays in a core's cache: on two idle cores 512 to 4,096 took the same, within 4%, 256
and 16,384 a tenth more; on one core beside other work 4,096 took 1.2 to 1.4 times as long."""
_LEAST_TOKENS = 2048
"""Of a measured pass: enough that what does not grow with the batch does not decide."""
_MOST_TOKENS = 65536
"""Kernels count elements in 32 bits, and no GPU is faster with more."""
_STEP = 1024
_SHARE = 0.8
"""Of free memory; the rest is for fragments and for what other processes take meanwhile."""
_SIGNS = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
# The peak is counted per device and not per thread.
_measuring = threading.Lock()


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Peak memory of one forward pass beyond the weights: `fixed` + `per_token` × padded tokens, in bytes."""

    fixed: float
    per_token: float

    @classmethod
    def through(cls, small: tuple[int, int], large: tuple[int, int]) -> PassMemory:
        """Draw the line through two measurements, each padded tokens and peak bytes."""
        slope = max(1.0, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(max(0.0, small[1] - slope * small[0]), slope)

    def tokens_in(self, free: int) -> int:
        """Return how many padded tokens fit in so many free bytes, in steps of 1,024 and at most 65,536."""
        fitting = int((_SHARE * free - self.fixed) / self.per_token)
        return max(_STEP, min(_MOST_TOKENS, fitting // _STEP * _STEP))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a memory that ran out from any other failure; PyTorch has a class of its own only for some allocators."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in _SIGNS)


def measured_pass(
    compute: Callable[[Sequence[PromptedText]], object], device: torch.device, longest: int
) -> PassMemory:
    """Run a small and a large batch of made-up texts on a CUDA device and watch the allocator.

    Args:
        compute: The forward pass.
        device: A CUDA device.
        longest: Tokens of the longest text; memory that grows with its square is then counted in full.

    Raises:
        torch.OutOfMemoryError: not even the smaller one fits.
    """
    rows = -(-_LEAST_TOKENS // longest)
    with _measuring:
        compute(made_up(1, longest))  # what is allocated once, such as workspaces, is there afterwards
        small = _peak(compute, device, rows, longest)
        large = _peak(compute, device, 2 * rows, longest)
    return PassMemory.through(small, large)


def free_bytes(device: torch.device) -> int:
    """Return what a CUDA device can still give this process: unused by anyone, or kept by its own allocator."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)


def _peak(
    compute: Callable[[Sequence[PromptedText]], object], device: torch.device, rows: int, longest: int
) -> tuple[int, int]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    compute(made_up(rows, longest))
    torch.cuda.synchronize(device)
    return rows * longest, torch.cuda.max_memory_allocated(device) - before


def made_up(rows: int, longest: int) -> list[PromptedText]:
    """Return texts of so many tokens each, with the positions that any method may ask for."""
    return [PromptedText([1] * longest, 0, pooled=(0, longest), placeholder=0)] * rows
