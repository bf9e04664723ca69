"""How much memory a piece of work took at its peak."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(slots=True)
class PeakMemory:
    """Peaks, filled when the work is done.

    Attributes:
        process: Bytes resident, everything that the process holds included. Where the system cannot forget an earlier
            peak (it can on Linux), the highest since the process began.
        device: Bytes that torch had taken on CUDA devices; None without one.
    """

    process: int = 0
    device: int | None = None


@contextlib.contextmanager
def measured_memory() -> Iterator[PeakMemory]:
    """Measure the peaks of what runs inside."""
    import torch

    peak = PeakMemory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from what is held now
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    peak.process = _high_water()
    if devices:
        peak.device = sum(torch.cuda.max_memory_allocated(device) for device in devices)


def _high_water() -> int:
    """Return the largest resident memory, in bytes: on Linux since it was last forgotten."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    # ru_maxrss never falls below what the process had that started this one.
    ours = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    return ours or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
