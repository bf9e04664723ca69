"""Evaluations and comparisons as a person reads them, within 80 columns; the whole is in the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.printable import line
from pipelines.rendering import Render, timed

if TYPE_CHECKING:
    from pipelines.errors import JSON
    from pipelines.evaluation import Bucket, Comparison, Estimate, EvaluationResult, System

_MIB = 2**20
_MAIN_METRIC = "ndcg@10"
_COMPARED = ("ndcg@10", "recall@100")
_BLOCKS = (("ndcg@10", "recall@10", "recall@100"), ("mrr@10", "map@100"), ("hit@1", "hit@5", "hit@10"))
_ALWAYS = ("model", "method", "layers", "pooling", "prefix_bias", "max_length", "dtype")
_LEXICAL = ("unit", "k1", "b", "weights", "word", "stop_words", "stemmer", "chunk_tokens")
_WHERE_SET = ("revision", "quantization", "transform", "prepending")
_OF_QUERIES = ("encode_queries", "rank")
_LENGTHS = {"tokens": "length of the query", "relevant_tokens": "mean length of its relevant documents"}


def evaluation_report(result: EvaluationResult) -> Render:
    """Show the means with their intervals, differences, buckets, and what they rest on."""

    def render(console: Console) -> None:
        from pipelines.evaluation.buckets import LENGTHS, length_buckets
        from pipelines.evaluation.comparison import compare_with_main

        _show_counts(console, result)
        if len(result.systems) == 1:
            tables = [_metrics_table(result.main)]
        else:
            tables = [*_means_tables(result), _differences(result.main.name, compare_with_main(result))]
        for length in LENGTHS:
            if buckets := length_buckets(result, length):
                tables.append(_bucket_table(result, buckets, _LENGTHS[length]))
        for table in (*tables, _cost_table(result.systems)):
            console.print()
            console.print(table)
        console.print()
        for system in result.systems:
            _show_configuration(console, system, result.main)

    return render


def comparison_report(
    comparison: Comparison, systems: tuple[System, System], changed: Mapping[str, tuple[JSON, JSON]]
) -> Render:
    """Show two systems metric by metric, who they are, and in what they were configured differently."""

    def render(console: Console) -> None:
        title = f"{comparison.second} against {comparison.first}: {comparison.queries:,} queries"
        table = _table(title, "metric", "first", "second", "difference", "95 %", "p", "p, Holm")
        for one in comparison.metrics:
            numbers = (f"{one.first:.4f}", f"{one.second:.4f}", f"{one.difference.mean:+.4f}")
            p_values = (f"{one.p_value:.4f}", f"{one.p_corrected:.4f}")
            interval = f"{one.difference.low:+.4f} to {one.difference.high:+.4f}"
            table.add_row(one.metric, *numbers, interval, *p_values)
        console.print(table)
        if comparison.left_out:
            console.print(f"{comparison.left_out:,} queries are not shared and were left out", style="yellow")
        for place, system in zip(("first", "second"), systems, strict=True):
            console.print(line(f"{place:<12}{system.name}: {_configured(system, system)}"))
            console.print(f"fingerprint {system.fingerprint}")
        if len({"model" in system.identity for system in systems}) > 1:
            return  # an encoder and none: every field of either differs, and both were shown
        for field, (before, after) in changed.items():
            console.print(line(f"Differs     {field}: {before} -> {after}"))

    return render


def _show_counts(console: Console, result: EvaluationResult) -> None:
    counts, figures = result.counts, result.main.figures
    place = f" of collection {result.collection!r}" if result.collection else f" in {figures.chunks:,} chunks"
    heading = f"{result.dataset}: {len(result.queries):,} queries, {counts.documents:,} documents{place}"
    console.print(Text(line(heading), style="bold"))
    notes = {
        "queries without judgements, left out": counts.unjudged_queries,
        "queries without a relevant document, left out": counts.queries_without_relevant,
        "queries kept from finding themselves": counts.self_hits_removed,
        f"judged documents missing, counted as not found: {', '.join(counts.missing_ids)}": counts.judged_missing,
        "documents without text": counts.documents_empty,
        "documents quarantined": figures.documents_quarantined,
    }
    for note, number in notes.items():
        if number:
            console.print(line(f"  {number:,} {note}"), style="yellow")


def _metrics_table(system: System) -> Table:
    table = _table(f"{system.name}, means over the queries", "metric", "mean", "95 %")
    for metric, cell in system.estimates.items():
        table.add_row(metric, f"{cell.mean:.4f}", f"{cell.low:.4f} to {cell.high:.4f}")
    return table


def _means_tables(result: EvaluationResult) -> Iterator[Table]:
    for block in _BLOCKS:
        title = "Means over the queries, with 95 % intervals" if block is _BLOCKS[0] else None
        table = _table(title, "system", *block)
        for system in result.systems:
            _add_system(table, result.main, system, [_wide(system.estimates[metric]) for metric in block])
        yield table


def _differences(main: str, comparisons: Sequence[Comparison]) -> Table:
    title = f"{main} less each other: difference per query, 95 %, p corrected (Holm)"
    headings = [heading for metric in _COMPARED for heading in (metric, "95 %", "p")]
    table = _table(title, "less", *headings)
    for comparison in comparisons:
        found = {one.metric: one for one in comparison.metrics}
        cells = []
        for one in (found[metric] for metric in _COMPARED):
            low, high = (_short(value, "+") for value in (one.difference.low, one.difference.high))
            cells += [_short(one.difference.mean, "+"), f"{low} {high}", f"{one.p_corrected:.4f}"]
        table.add_row(comparison.first, *cells)
    return table


def _bucket_table(result: EvaluationResult, buckets: Sequence[Bucket], length: str) -> Table:
    headings = [f"{bucket.low:.0f}-{bucket.high:.0f}\nof {len(bucket.queries)}" for bucket in buckets]
    table = _table(f"{_MAIN_METRIC} by {length}, in tokens", "system", *headings)
    for system in result.systems:
        cells = [bucket.estimates[system.name][_MAIN_METRIC] for bucket in buckets]
        _add_system(table, result.main, system, [_narrow(cell) for cell in cells])
    return table


def _cost_table(systems: Sequence[System]) -> Table:
    headings = ("chunks", "chunks\ncut", "queries\ncut", "tokens\n/s", "index\ns", "search\ns", "peak\nMiB")
    table = _table("What it took; cut is what was too long for the model", "system", *headings)
    for system in systems:
        figures = system.figures
        queries = sum(figures.seconds.get(stage, 0.0) for stage in _OF_QUERIES)
        cut, speed, peak = figures.truncation_rate, figures.tokens_per_second, figures.peak_memory_bytes
        table.add_row(
            system.name,
            _known(figures.chunks or None, ",d"),
            _known(cut if figures.tokens else None, ".1%"),
            _known(figures.truncated_queries if figures.query_tokens else None, ",d"),
            _known(speed, ",.0f"),
            _known(sum(figures.seconds.values()) - queries if figures.chunks else None, ",.1f"),
            f"{queries:,.1f}",
            _known(peak / _MIB if peak else None, ",.0f"),
        )
    return table


def _show_configuration(console: Console, system: System, main: System) -> None:
    told = _configured(system, main)
    console.print(Text.assemble((system.name, "bold"), line(f": {told}" if told else "")))
    more = (f"seconds {timed(system.figures.seconds)}", _chunking(system)) if system is main else ()
    for text in filter(None, more):
        console.print(Padding(Text(line(text)), (0, 0, 0, 2)))
    if system.fingerprint:
        console.print(f"  fingerprint {system.fingerprint}")


def _configured(system: System, main: System) -> str:
    """Tell a configuration; of a further encoder only what is not the first's."""
    identity = system.identity
    encodes = "model" in identity
    names = (*(_ALWAYS if encodes else ("method", *_LEXICAL)), *_WHERE_SET)
    shown = [name for name in names if name in identity and (name not in _WHERE_SET or identity[name])]
    if encodes and system is not main:
        known = {*identity, *main.identity}
        shown = [name for name in names if name in known and identity.get(name) != main.identity.get(name)]
    words = ", ".join(f"{name.replace('_', ' ')} {_told(identity.get(name))}" for name in shown)
    return f"as {main.name}, but {words}" if words and encodes and system is not main else words


def _chunking(system: System) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in system.chunking.items())


def _told(value: JSON) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _table(title: str | None, *headings: str) -> Table:
    """Return a table whose first column is words and all others numbers, two blanks apart."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    table.title_justify, table.title_style = "left", "bold"
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def _add_system(table: Table, main: System, system: System, cells: Iterable[str]) -> None:
    table.add_row(system.name, *cells, style="bold" if system is main else None)


def _wide(cell: Estimate) -> str:
    return f"{cell.mean:.3f} {cell.low:.3f}-{cell.high:.3f}"


def _narrow(cell: Estimate) -> str:
    return f"{cell.mean:.2f} {_short(cell.low, places=2)}-{_short(cell.high, places=2)}"


def _short(value: float, sign: str = "", places: int = 3) -> str:
    """Write a share without the 0 before its point."""
    return f"{value:{sign}.{places}f}".replace("0.", ".", 1)


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
