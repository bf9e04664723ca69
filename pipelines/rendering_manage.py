"""Collections and their care as a person reads them: status, quarantine, checks, rollbacks, what was removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipelines.printable import line, paragraphs
from pipelines.rendering import Render, counted, layers_text

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.generations import PruneReport, Swap
    from pipelines.inventory import CollectionStatus
    from pipelines.report import QuarantinedDocument
    from pipelines.verification import VerifyReport

_FIRST = 3


def states(found: Sequence[CollectionStatus]) -> Render:
    """Show what a store holds."""

    def render(console: Console) -> None:
        if not found:
            console.print("This store holds no collections; make one with `kvembed index SOURCE -c NAME`.")
        for state in found:
            _state(console, state)
        if len(found) == 1:
            (state,) = found
            console.print(Text(f"  stored as   {line(state.physical)}"))
            console.print(f"  fingerprint {state.fingerprint}")
            _first_quarantined(console, state)

    return render


def quarantines(found: Sequence[CollectionStatus]) -> Render:
    """List every quarantined document, and say what to do."""

    def render(console: Console) -> None:
        for state in found:
            if not state.quarantined:
                console.print(Text(f"{line(state.collection)}: nothing is quarantined"))
                continue
            number = f": {_plural(len(state.quarantined), 'document')} quarantined"
            console.print(Text.assemble((line(state.collection), "bold"), number))
            for quarantined in state.quarantined:
                _quarantined(console, quarantined)
            _way_out(console, state.collection)

    return render


def verification(name: str, checked: VerifyReport) -> Render:
    """Say what a check found, what was mended, and what is left to do."""

    def render(console: Console) -> None:
        console.print(
            Text.assemble((name, "bold"), "  ", ("ok", "bold green") if checked.ok else ("not ok", "bold red"))
        )
        console.print(f"  holds       {checked.documents:,} documents, {checked.chunks:,} chunks")
        compared = f"{checked.checked_vectors:,} compared with new ones of their text"
        if checked.unchecked_vectors:
            compared += f", {checked.unchecked_vectors:,} whose text is not known"
        console.print(f"  vectors     {compared}")
        console.print(f"  canaries    {checked.canaries}, within {checked.canary_difference:.1e}")
        _sentences(console, "wrong", checked.problems, "red")
        _sentences(console, "was wrong", [one for one in checked.found if one not in checked.problems], "yellow")
        mended = {
            "vectors embedded again": checked.repaired_vectors,
            "strays deleted": checked.deleted_strays,
            "ledger entries restored": checked.restored_entries,
            "documents marked to be written again": checked.marked_documents,
            "documents written again": checked.rewritten_documents,
        }
        if any(mended.values()):
            console.print(f"  mended      {counted(mended)}", style="green")
        _sentences(console, "what to do", checked.remedies, "")

    return render


def swapped(swap: Swap) -> Render:
    """Say what a name stands for now."""

    def render(console: Console) -> None:
        console.print(Text.assemble((line(swap.collection), "bold"), f" stands for {line(swap.physical)} again"))
        console.print(Text(f"  before      {line(swap.replaced)}, to which another rollback returns"))
        console.print("  encoder     the one of that time; the next run without encoder options keeps it")

    return render


def pruned(report: PruneReport, grace: str) -> Render:
    """Say what was removed, and what was not."""

    def render(console: Console) -> None:
        console.print(Text.assemble((line(report.collection), "bold"), f": {len(report.removed):,} removed"))
        for physical in report.removed:
            console.print(Text.assemble("  ", ("removed", "red"), f"     {line(physical)}"))
        for physical in report.kept:
            console.print(Text(f"  kept        {line(physical)}, in use or begun less than {grace} ago"))

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
    console.print(Text.assemble("  changed     ", changed, (_unfinished(state), "yellow")))
    if storage := _storage(state.storage):
        console.print(Text(f"  storage     {storage}"))
    if state.writer is not None:
        console.print(Text(f"  writer      {line(state.writer)}", style="yellow"))
    if state.building is not None:
        console.print(Text(f"  building    {line(state.building)}", style="yellow"))
    for physical in state.previous:
        console.print(Text(f"  before      {line(physical)}"))
    if state.previous:
        name = _quoted(state.collection)
        console.print(Text(f"              kvembed rollback {name}, kvembed prune {name}", style="dim"))


def _unfinished(state: CollectionStatus) -> str:
    if not state.interrupted:
        return ""
    return ", a run was interrupted" if state.writer is None else ", a run is not finished"


def _storage(storage: Mapping[str, JSON]) -> str:
    """Name what is not the default."""
    quantization = str(storage.get("quantization", "none"))
    tenant = storage.get("tenant_field")
    parts = (
        "vectors on disk" if storage.get("on_disk") else "",
        f"{quantization} quantization" if quantization != "none" else "",
        f"tenants by {line(str(tenant))}" if tenant else "",
    )
    return ", ".join(part for part in parts if part)


def _first_quarantined(console: Console, state: CollectionStatus) -> None:
    for quarantined in state.quarantined[:_FIRST]:
        _quarantined(console, quarantined)
    more = len(state.quarantined) - _FIRST
    if more > 0:
        console.print(Text(f"  and {more:,} more: kvembed status {_quoted(state.collection)} --quarantine"))
    elif state.quarantined:
        _way_out(console, state.collection)


def _quarantined(console: Console, found: QuarantinedDocument) -> None:
    console.print(Text.assemble("  ", (line(found.document_id), "yellow"), (f"  {found.stage}", "dim")))
    reason = Text(paragraphs(found.reason))
    if found.source and found.source != found.document_id:
        reason.append(f"\nfrom {line(found.source)}", style="dim")
    console.print(Padding(reason, (0, 0, 0, 4)))


def _way_out(console: Console, collection: str) -> None:
    advice = (
        "A quarantined document is tried again when it changes. To try all of them as they are: "
        f"kvembed index SOURCE -c {_quoted(collection)} --retry-quarantined"
    )
    console.print(Padding(Text(advice), (0, 0, 0, 2)))


def _sentences(console: Console, heading: str, sentences: Sequence[str], style: str) -> None:
    if sentences:
        console.print(f"  {heading}")
    for sentence in sentences:
        console.print(Padding(Text(paragraphs(sentence), style=style), (0, 0, 0, 4)))


def _quoted(name: str) -> str:
    """Return a name as a shell takes it."""
    return line(quote(name))


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
