"""Checkpoints that a kill at any point cannot tear.

What is in one is known to the stage that wrote it; each stage casts to its own record.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Write beside the old checkpoint, then replace it in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, object] | None:
    """Read a checkpoint, or None if there is none."""
    if not path.exists():
        return None
    state: dict[str, object] = torch.load(path, map_location="cpu", weights_only=True)
    return state
