"""Who embeds, as `index` is asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.executors import ExecutorName

if TYPE_CHECKING:
    from pipelines.executors import Executor

_PANEL = "Who embeds"


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """Options that say which processes embed."""

    executor: Annotated[
        ExecutorName,
        typer.Option(
            "--executor",
            help="This process, several on this machine, or a Ray cluster.",
            rich_help_panel=_PANEL,
        ),
    ] = "inline"
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Processes that embed, not for inline.",
            show_default="one per GPU, else 2",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def opened(self, device: str | None) -> Executor:
        """Make the executor.

        Args:
            device: As `--device` names it.

        Raises:
            typer.BadParameter: the options do not go together, or there is no such device.
        """
        from pipelines.executors import open_executor

        try:
            return open_executor(self.executor, workers=self.workers, device=device)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def own_device(self, device: str | None) -> str | None:
        """Return the device for the model of this process, where workers have those that `--device` names."""
        return None if self.executor != "inline" and device == "cuda" else device
