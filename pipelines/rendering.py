"""Results as a person reads them; the same values go out as JSON elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.printable import line, paragraphs

if TYPE_CHECKING:
    from pipelines.inventory import CollectionStatus
    from pipelines.report import IngestPlan, IngestReport, QuarantinedDocument, SearchHit
    from pipelines.verification import VerifyReport

Render = Callable[[Console], None]

_LISTED = 20
_HEADING_CHARACTERS = 48


def index_report(report: IngestReport) -> Render:
    """Say what a run did."""

    def render(console: Console) -> None:
        changes = {
            "added": report.documents_added,
            "changed": report.documents_changed,
            "deleted": report.documents_deleted,
            "unchanged": report.documents_unchanged,
            "empty": report.documents_empty,
            "quarantined": report.documents_quarantined,
        }
        console.print(Text.assemble((report.collection, "bold"), " from ", line(report.source)))
        if not (report.documents_added or report.documents_changed or report.documents_deleted):
            console.print(f"  Nothing changed: {report.documents_unchanged:,} documents are as they were.")
        console.print("  documents  ", counted(changes))
        console.print(f"  chunks      {report.chunks_embedded:,} embedded, {report.chunks_reused:,} reused")
        console.print("  points     ", counted({"written": report.points_written, "deleted": report.points_deleted}))
        if report.tokens:
            rate = report.tokens / max(report.seconds.get("embed", 0.0), 1e-9)
            console.print(f"  tokens      {report.tokens:,} at {rate:,.0f} per second")
        if report.truncated_chunks:
            cut = f"{report.truncated_tokens:,} tokens in {report.truncated_chunks:,} chunks"
            console.print(f"  truncated   {cut}", style="yellow")
        console.print(f"  layers      {layers_text(report.layers)}")
        console.print(f"  time        {timed(report.seconds)}")
        for warning in report.warnings:
            console.print(Padding(Text(f"Warning: {paragraphs(warning)}", style="yellow"), (0, 0, 0, 2)))
        _quarantine(console, report.quarantined)

    return render


def plan_report(plan: IngestPlan) -> Render:
    """Say what a run would do."""

    def render(console: Console) -> None:
        console.print(Text.assemble((plan.collection, "bold"), " from ", line(plan.source)))
        if plan.changes_nothing:
            console.print(f"  Nothing would change: {plan.unchanged:,} documents are as they were.")
        for verb, style, names in (
            ("add", "green", plan.added),
            ("change", "yellow", plan.changed),
            ("delete", "red", plan.deleted),
        ):
            for name in names[:_LISTED]:
                console.print(Text.assemble("  ", (f"{verb:<7}", style), line(name)))
            if len(names) > _LISTED:
                console.print(Text(f"  {verb:<7}… and {len(names) - _LISTED:,} more", style="dim"))
        counts = {"add": len(plan.added), "change": len(plan.changed), "delete": len(plan.deleted)}
        console.print("  documents  ", counted(counts | {"unchanged": plan.unchanged}))
        if plan.chunks_to_embed is not None:
            needed = f"  to embed    {plan.chunks_to_embed:,} chunks"
            needed += f", {plan.tokens_to_embed:,} tokens" if plan.tokens_to_embed is not None else ""
            needed += f", about {plan.seconds_to_embed:,.0f} s" if plan.seconds_to_embed is not None else ""
            console.print(needed)
        _quarantine(console, plan.quarantined)

    return render


def search_hits(collection: str, hits: Sequence[SearchHit]) -> Render:
    """Show hits in order, each with its place, its score and the beginning of its text."""

    def render(console: Console) -> None:
        if not hits:
            console.print(f"Nothing found: collection {collection!r} is empty.")
        for rank, hit in enumerate(hits, start=1):
            show_hit(console, rank, hit)

    return render


def show_hit(console: Console, rank: int, hit: SearchHit) -> None:
    """Print one hit: a line with title, headings, source and score, then a few lines of text."""
    path = hit.metadata.get("heading_path")
    heading = [line(str(part)) for part in path] if isinstance(path, list | tuple) else []
    title = line(str(hit.metadata.get("title") or hit.document_id))
    source = line(str(hit.metadata.get("source") or hit.document_id))
    headline = Text.assemble((f"{rank}. ", "dim"), (title, "bold cyan"))
    for part in heading:
        if part != title:
            headline.append(f" › {textwrap.shorten(part, _HEADING_CHARACTERS, placeholder='…')}")
    if source not in (title, f"{title}.md"):
        headline.append(f"  {source}", style="dim")
    width = console.width - 7
    headline.truncate(width, overflow="ellipsis", pad=True)
    headline.append(f" {hit.score:.3f}", style="green")
    console.print(headline, no_wrap=True)
    console.print(Padding(Text(line(snippet(hit.text, heading))), (0, 0, 0, 3)))


def snippet(text: str, heading: Sequence[str] = (), limit: int = 240) -> str:
    """Return the beginning of a chunk as one paragraph, without its Markdown headings where text follows them."""
    lines = [line.strip() for line in text.splitlines()]
    body = [line for line in lines if line and not line.startswith("#")]
    return textwrap.shorten(" ".join(body or lines) or " ".join(heading), limit, placeholder=" …")


def layers_text(layers: Sequence[int]) -> str:
    """Name re-routing layers."""
    return ", ".join(map(str, layers)) if layers else "none (re-routing is off)"


def states(found: Sequence[CollectionStatus]) -> Render:
    """Show what a store holds."""

    def render(console: Console) -> None:
        if not found:
            console.print("This store holds no collections; make one with `kvembed index SOURCE -c NAME`.")
            return
        for state in found:
            _state(console, state)
        if len(found) == 1:
            console.print(f"  fingerprint {found[0].fingerprint}")
            _quarantine(console, found[0].quarantined)

    return render


def _state(console: Console, state: CollectionStatus) -> None:
    """Print lines, not a table: one with these columns would break words at 80 characters."""
    layers = state.encoder["layers"]
    numbers = [int(str(layer)) for layer in layers] if isinstance(layers, list | tuple) else []
    holds = f"{state.documents:,} documents, {state.chunks:,} chunks"
    quarantined = f", {len(state.quarantined):,} quarantined" if state.quarantined else ""
    changed = state.changed_at.replace("T", " ")[:16] or "never"
    console.print(Text(line(state.collection), style="bold"))
    console.print(Text.assemble("  holds       ", holds, (quarantined, "yellow")))
    console.print(Text(f"  encoder     {line(str(state.encoder['model']))}, layers {layers_text(numbers)}"))
    console.print(Text.assemble("  changed     ", changed, (", interrupted" if state.interrupted else "", "yellow")))


def verification(name: str, checked: VerifyReport) -> Render:
    """Say what a check found."""

    def render(console: Console) -> None:
        sentence = f"{name}: {checked.documents:,} documents, {checked.chunks:,} chunks, "
        sentence += f"{checked.canaries} canaries within {checked.canary_difference:.1e}"
        console.print(Text.assemble(sentence + " ", ("ok", "bold green") if checked.ok else ("not ok", "bold red")))
        for problem in checked.problems:
            console.print(Text(f"  {line(problem)}", style="red"))

    return render


def records_table(title: str, rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> Render:
    """Show records as a table.

    Args:
        title: Line above it.
        rows: One record per line.
        columns: Key of the record -> column heading.
    """

    def render(console: Console) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for key, heading in columns.items():
            numbers = all(isinstance(row.get(key), int | float) for row in rows)
            table.add_column(heading, justify="right" if numbers and rows else "left", overflow="fold")
        for row in rows:
            table.add_row(*[_cell(row.get(key)) for key in columns])
        console.print(table)

    return render


def _quarantine(console: Console, quarantined: Sequence[QuarantinedDocument]) -> None:
    if not quarantined:
        return
    rows = [{"id": found.document_id, "stage": found.stage, "reason": found.reason} for found in quarantined[:_LISTED]]
    more = "" if len(quarantined) <= _LISTED else f", the first {_LISTED}"
    title = f"Quarantined: {len(quarantined):,}{more} (tried again when they change)"
    records_table(title, rows, {"id": "document", "stage": "stage", "reason": "reason"})(console)


def counted(counts: Mapping[str, int]) -> str:
    """Name the counts that are not 0."""
    shown = [f"{number:,} {word}" for word, number in counts.items() if number]
    return ", ".join(shown) or "none"


def timed(seconds: Mapping[str, float]) -> str:
    """Sum up stages, and name those that took time."""
    stages = ", ".join(f"{stage.replace('_', ' ')} {value:.1f}" for stage, value in seconds.items() if value >= 0.05)
    total = f"{sum(seconds.values()):.1f} s"
    return f"{total} ({stages})" if stages else total


def _cell(value: object) -> Text:
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    if isinstance(value, list | tuple):
        return Text(line(", ".join(map(str, value))) or "none")
    return Text("" if value is None else line(str(value)))
