"""What a run shows in Prefect: how far it is, what it did, and which documents it could not index."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from pipelines.errors import JSON

if TYPE_CHECKING:
    from pipelines.report import Progress, QuarantinedDocument

EVERY = 5.0
"""Seconds between two updates of the progress, each of which is a call to Prefect."""
MOST = 500
"""Rows of a table of quarantined documents; a page with thousands of rows helps nobody."""

_SPECIAL = re.compile(r"([\\`*\[\]<>])")


def artifact_key(kind: str, name: str) -> str:
    """Return the key under which the artifacts of a collection follow each other; Prefect takes a-z, 0-9 and dashes."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


class ProgressArtifact:
    """Callback `(stage, done, total)` that keeps a progress artifact of the run up to date.

    Args:
        name: Collection.
        further: Told as well.
    """

    def __init__(self, name: str, further: Progress | None = None) -> None:
        self._key = artifact_key("progress", name)
        self._further = further
        self._artifact: UUID | None = None
        self._stage = ""
        self._due = 0.0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Note how far a stage is; a new stage is shown at once, the rest of it now and then."""
        if self._further is not None:
            self._further(stage, done, total)
        if stage == self._stage and time.monotonic() < self._due:
            return
        self._stage, self._due = stage, time.monotonic() + EVERY
        count = f" {done:,}" if total is None else f" {done:,} of {total:,}"
        self._show(100.0 * done / total if total else 0.0, f"{stage}{count if done or total else ''}")

    def finish(self) -> None:
        """Show that the run is through."""
        self._show(100.0, "done")

    def _show(self, share: float, description: str) -> None:
        try:
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(share, self._key, description))
            else:
                update_progress_artifact(self._artifact, share, description)
        except httpx.HTTPError as error:  # the work is worth more than the picture of it
            get_run_logger().warning("the progress is not shown: %s", error)


def publish_figures(kind: str, name: str, report: Mapping[str, JSON], description: str) -> None:
    """Publish a report as a table, nested records as rows `stage: embed`."""
    create_table_artifact(_figures(report), artifact_key(kind, name), description)


def publish_quarantine(name: str, quarantined: Sequence[QuarantinedDocument], source: str) -> None:
    """Publish which documents are not searchable in their present form, each linked to where it lies.

    Args:
        name: Collection.
        quarantined: All of them.
        source: What was indexed; paths below a folder are linked by it.
    """
    rows = [
        {
            "document": _linked(found, Path(source)),
            "stage": found.stage,
            "reason": _literal(found.reason),
            "content hash": found.content_hash[:12],
        }
        for found in quarantined[:MOST]
    ]
    left = f", the first {MOST:,}" if len(quarantined) > MOST else ""
    create_table_artifact(
        rows,
        artifact_key("quarantine", name),
        f"{len(quarantined):,} quarantined documents of collection {name}{left}; "
        f"`kvembed status {name} --quarantine` lists all of them and says what to do",
    )


def _figures(report: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    rows: list[dict[str, JSON]] = []
    for key, value in report.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        rows += [{"figure": f"{key}: {name}" if name else key, "value": _cell(entry)} for name, entry in inner]
    return rows


def _cell(value: JSON) -> JSON:
    if isinstance(value, list | tuple):
        records = bool(value) and isinstance(value[0], Mapping)
        return len(value) if records else ", ".join(str(_cell(entry)) for entry in value)
    if isinstance(value, str):
        return _literal(value)
    return round(value, 3) if isinstance(value, float) else str(value) if isinstance(value, bool | None) else value


def _linked(found: QuarantinedDocument, root: Path) -> str:
    path = root / found.source
    if re.match(r"https?://", found.source):
        link = found.source
    elif path.exists():
        link = path.resolve().as_uri()
    else:
        return _literal(found.document_id)
    return f"[{_literal(found.document_id)}](<{link}>)"


def _literal(text: str) -> str:
    """Escape what Prefect's pages, which show a cell as Markdown, would take for marks."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
