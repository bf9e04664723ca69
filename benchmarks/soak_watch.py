"""Processes of a soak as Linux sees them: whose children they are, what memory they hold; and the picture of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MB = 1024 * 1024
_WORKER = b"pipelines.executors.worker"


def workers_of(parent: int) -> list[int]:
    """Return the worker processes that a parent has now."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{parent}/task").iterdir():
            found += [int(pid) for pid in (thread / "children").read_text().split()]
    return [pid for pid in sorted(set(found)) if _WORKER in _command(pid)]


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_at_work(pid: int) -> bool:
    """Tell whether a worker has loaded its model: it talks to its parent, and to the server."""
    sockets = 0
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets += os.readlink(link).startswith("socket:")
    return sockets > 1


def kill(pid: int) -> bool:
    """End a process without a word; False when it had ended before."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def memory(pid: int) -> tuple[float, float] | None:
    """Return resident and unique memory in MB; None when the process is gone."""
    sizes: dict[str, int] = {}
    with suppress(OSError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, *_ = line.split()
            sizes[name.rstrip(":")] = int(size) * 1024
    if not sizes:
        return None
    return sizes["Rss"] / MB, (sizes["Private_Clean"] + sizes["Private_Dirty"]) / MB


@dataclass(slots=True)
class Track:
    """One process over time.

    Attributes:
        role: parent or worker.
        seconds: Since the soak began, a sample each.
        resident: MB, the same.
        unique: MB that no other process shares, the same.
    """

    role: str
    seconds: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    unique: list[float] = field(default_factory=list)

    def growth(self) -> float | None:
        """Return MB of unique memory that the last quarter has more than the second one; None of a short life."""
        count = len(self.unique)
        if count < 24:
            return None
        quarter = count // 4
        return _median(self.unique[-quarter:]) - _median(self.unique[quarter : 2 * quarter])


@dataclass(slots=True)
class Watch:
    """Memory of every process that was seen, and what was killed when."""

    began: float = field(default_factory=time.monotonic)
    tracks: dict[int, Track] = field(default_factory=dict)
    kills: list[tuple[float, str]] = field(default_factory=list)

    def sample(self, parent: int, workers: Sequence[int]) -> None:
        """Look at every process once."""
        moment = time.monotonic() - self.began
        for pid, role in [(parent, "parent"), *[(pid, "worker") for pid in workers]]:
            found = memory(pid)
            if found is None:
                continue
            track = self.tracks.setdefault(pid, Track(role))
            track.seconds.append(moment)
            track.resident.append(found[0])
            track.unique.append(found[1])

    def killed(self, role: str) -> None:
        """Note a kill."""
        self.kills.append((time.monotonic() - self.began, role))

    def growths(self) -> Mapping[str, list[float]]:
        """Return `Track.growth` of everybody who lived long enough, by role."""
        found: dict[str, list[float]] = {"parent": [], "worker": []}
        for track in self.tracks.values():
            if (growth := track.growth()) is not None:
                found[track.role].append(growth)
        return found

    def picture(self, path: Path, title: str) -> None:
        """Draw the unique memory of every process, and the kills."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
        colours = {"parent": "#b2182b", "worker": "#2166ac"}
        for track in self.tracks.values():
            axes.plot(track.seconds, track.unique, color=colours[track.role], linewidth=1, alpha=0.8)
        top = max((max(track.unique) for track in self.tracks.values()), default=1.0)
        for moment, role in self.kills:
            axes.plot([moment], [-0.03 * top], marker="x", color=colours[role], markersize=7 if role == "parent" else 4)
        for role, colour in colours.items():
            axes.plot([], [], color=colour, label=f"{role}, MB that no other process shares")
        axes.plot([], [], "x", color="#555555", label="killed")
        axes.set_xlabel("seconds")
        axes.set_ylabel("MB")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylim(-0.07 * top, 1.15 * top)
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
