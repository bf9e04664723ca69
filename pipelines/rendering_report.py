"""A written report as a person reads of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from pipelines.printable import line
from pipelines.rendering import Render

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation.report import WrittenReport

_KIB = 2**10


def report_record(written: WrittenReport) -> dict[str, JSON]:
    """Return where the report lies and what is in it."""
    return {
        "html": str(written.html),
        "markdown": str(written.markdown),
        "sections": [section.title for section in written.page.sections],
    }


def written_report(written: WrittenReport) -> Render:
    """Say where the report lies and what is in it."""

    def render(console: Console) -> None:
        for section in written.page.sections:
            parts = ", ".join(block.title.lower() for block in section.blocks)
            console.print(line(f"{section.title}: {parts}"))
        for path in (written.html, written.markdown):
            console.print(line(f"{path} ({path.stat().st_size / _KIB:,.0f} KiB)"))

    return render
