"""What a run may do, as `index` and `plan` are asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

_ALLOWED = "What the run may do"


@dataclass(frozen=True, slots=True)
class RunChoice:
    """Options that say what a run may do; None means not given."""

    delete: Annotated[
        Literal["guarded", "all", "none"],
        typer.Option(
            "--delete",
            help="Documents gone from the source: delete unless they are many, delete all of them, or keep them.",
            rich_help_panel=_ALLOWED,
        ),
    ] = "guarded"
