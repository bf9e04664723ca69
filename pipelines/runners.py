"""Where the flow is found: by an entry point, because pipelines must not import Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal, Protocol, cast

from pipelines.errors import TerminalError

if TYPE_CHECKING:
    from kvembed.config import JSON as ConfigValue
    from pipelines.chunking import ChunkingConfig
    from pipelines.errors import JSON
    from pipelines.options import Delete
    from pipelines.report import IngestReport, Progress

GROUP = "kvembed.runners"
"""Entry-point group; the flow is its member `flow`."""


class Runner(Protocol):
    """`pipelines.ingest` with something around it; it loads the encoder itself, from JSON values."""

    def __call__(
        self,
        source: str,
        store: str,
        name: str,
        model: str,
        *,
        layers: Literal["auto"] | tuple[int, ...] = "auto",
        encoder: Mapping[str, ConfigValue] | None = None,
        chunking: ChunkingConfig | None = None,
        delete: Delete = "guarded",
        options: Mapping[str, JSON] | None = None,
        fields: Mapping[str, str | None] | None = None,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Index a source and report.

        `encoder` holds further fields of `EncoderConfig`, `options` further fields of `IngestOptions`.
        """


def find_runner(name: str = "flow") -> Runner:
    """Load a runner.

    Raises:
        TerminalError: it is not installed.
    """
    for found in entry_points(group=GROUP, name=name):
        return cast("Runner", found.load())
    raise TerminalError(
        f"runner {name!r} is not installed: this installation of kvembed lacks its entry points in {GROUP!r}; "
        "install it again with `pip install .`"
    )
