"""An evaluation as a section of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.evaluation import report_charts as charts
from pipelines.evaluation.buckets import LENGTHS, Length, length_buckets
from pipelines.evaluation.comparison import Comparison, compare_with_main
from pipelines.evaluation.report_charts import Row
from pipelines.evaluation.report_profile import profile_block
from pipelines.evaluation.report_records import Block, Chart, QueryGroup, Section, Table
from pipelines.evaluation.report_words import interval, mean_and_interval, number, p_value, plain, signed, spoken
from pipelines.evaluation.statistics import CONFIDENCE, PERMUTATIONS, RESAMPLES

if TYPE_CHECKING:
    from pipelines.evaluation.buckets import Bucket
    from pipelines.evaluation.results import EvaluationResult
    from pipelines.evaluation.systems import System

_MIB = 2**20
LEVEL = 0.05
"""Below it a p value stands out."""
_LENGTHS: Mapping[Length, str] = {"tokens": "the query", "relevant_tokens": "the relevant documents"}


@dataclass(frozen=True, slots=True)
class EvaluationSection:
    """What one evaluation becomes.

    Attributes:
        name: Of the section.
        result: Whose first system is asked about.
        beside: System that stands beside it in scatter and buckets; None without one.
        metric: By which the two are set against each other.
        groups: Queries to show.
    """

    name: str
    result: EvaluationResult
    beside: System | None
    metric: str
    groups: tuple[QueryGroup, ...]

    def section(self) -> Section:
        """Put everything together."""
        result = self.result
        blocks = [self._means(), *self._differences(), *self._scatter(), *self._buckets(), *self._profile()]
        blocks += [*self._queries(), self._costs(), self._configuration()]
        return Section(
            name=self.name,
            title=result.dataset if result.collection is None else f"{result.dataset}, asked of {result.collection}",
            facts=tuple(_facts(result)),
            commands=tuple(result.command.splitlines()),
            blocks=tuple(blocks),
            main=result.main.name,
            beside=self.beside.name if self.beside is not None else "",
        )

    def _means(self) -> Block:
        systems, metrics = self.result.systems, list(self.result.main.estimates)
        drawn = []
        for metric in metrics:
            rows = [Row(one.name, one.estimates[metric], one is self.result.main) for one in systems]
            title = f"{metric}: {spoken([(row.label, row.estimate) for row in rows])}"
            drawn.append(Chart(charts.bar_chart(self._id("means", metric), title, rows), metric))
        rows_of = ((one.name, *(mean_and_interval(one.estimates[metric]) for metric in metrics)) for one in systems)
        caption = f"Means over {len(self.result.queries):,} queries, and their 95 % intervals"
        table = Table(caption, ("system", *metrics), tuple(rows_of), frozenset({0}))
        note = (
            f"Bars begin at 0; lines are {100 * CONFIDENCE:.0f} % intervals of the mean over queries like these "
            f"(BCa bootstrap, {RESAMPLES:,} draws)."
        )
        return Block("How well", (note,), tuple(drawn), (table,))

    def _differences(self) -> Iterator[Block]:
        comparisons = compare_with_main(self.result)
        if not comparisons:
            return
        main = self.result.main.name
        found = {one.first: metric for one in comparisons for metric in one.metrics if metric.metric == self.metric}
        rows = [Row(name, one.difference, one.p_corrected < LEVEL) for name, one in found.items()]
        label = f"{main} less the other, {self.metric}"
        title = f"{label}: {spoken(((row.label, row.estimate) for row in rows), '+')}"
        svg = charts.dot_chart(self._id("differences"), title, rows, line=0.0, xlabel=label, sign="+")
        chart = Chart(svg, f"{main} less the other; in colour where p, corrected by Holm, is below {LEVEL}")
        tables = [_difference_table(comparisons, metric, main) for metric in self.result.main.estimates]
        first = next(place for place, metric in enumerate(self.result.main.estimates) if metric == self.metric)
        plural = "s" if len(comparisons) > 1 else ""
        note = (
            f"Paired, query by query. p is of a two-sided randomisation test ({PERMUTATIONS:,} draws), corrected by "
            f"Holm over the {len(comparisons)} system{plural} beside {main}, each metric by itself."
        )
        others = tuple(table for place, table in enumerate(tables) if place != first)
        yield Block("Differences", (note,), (chart,), (tables[first],), others)

    def _scatter(self) -> Iterator[Block]:
        if self.beside is None:
            return
        main, beside = self.result.main, self.beside
        pairs = [
            (beside.per_query[query][self.metric], main.per_query[query][self.metric]) for query in self.result.queries
        ]
        ahead = sum(upwards > across for across, upwards in pairs)
        behind = sum(upwards < across for across, upwards in pairs)
        words = (
            f"Of {len(pairs):,} queries {main.name} is ahead on {ahead:,}, {beside.name} on {behind:,}, "
            f"and {len(pairs) - ahead - behind:,} are equal ({self.metric})."
        )
        labels = (f"{beside.name}, {self.metric}", f"{main.name}, {self.metric}")
        svg = charts.scatter_chart(self._id("scatter"), words, pairs, labels)
        yield Block("Query by query", (words,), (Chart(svg, "A point per query, larger where several fall together"),))

    def _buckets(self) -> Iterator[Block]:
        pair = [self.result.main, *([self.beside] if self.beside is not None else [])]
        drawn, folded = [], []
        for length in LENGTHS:
            buckets = length_buckets(self.result, length)
            if not buckets:
                continue
            labels = [f"{one.low:,.0f}–{one.high:,.0f}\n({len(one.queries):,})" for one in buckets]
            lines = {one.name: [bucket.estimates[one.name][self.metric] for bucket in buckets] for one in pair}
            caption = f"{self.metric} by length of {_LENGTHS[length]}"
            axes = (f"tokens of {_LENGTHS[length]} (number of queries)", self.metric)
            svg = charts.bucket_chart(self._id("length", length), caption, labels, lines, axes)
            drawn.append(Chart(svg, caption))
            folded.append(self._bucket_table(caption, buckets))
        if drawn:
            note = "Parted at quartiles; queries of equal length stay together."
            yield Block("By length", (note,), tuple(drawn), folded=tuple(folded))

    def _bucket_table(self, caption: str, buckets: Sequence[Bucket]) -> Table:
        head = ("tokens", "queries", *(one.name for one in self.result.systems))
        rows = []
        for bucket in buckets:
            means = (mean_and_interval(bucket.estimates[one.name][self.metric]) for one in self.result.systems)
            rows.append((f"{bucket.low:,.0f}–{bucket.high:,.0f}", f"{len(bucket.queries):,}", *means))
        return Table(caption, head, tuple(rows))

    def _profile(self) -> Iterator[Block]:
        profile = self.result.main.layer_profile
        if profile is not None:
            yield profile_block(self._id("profile"), profile)

    def _queries(self) -> Iterator[Block]:
        if not self.groups:
            return
        note = f"Before each query stands its {self.metric} by {self.result.main.name}"
        note += f", then by {self.beside.name}." if self.beside is not None else "."
        yield Block("Queries", (note,), groups=self.groups)

    def _costs(self) -> Block:
        head = (
            "system",
            "chunks",
            "tokens",
            "tokens/s",
            "chunks truncated",
            "queries truncated",
            "peak MiB",
            "peak MiB of the device",
        )
        table = Table(
            "What each system took", head, tuple(_cost_row(one) for one in self.result.systems), frozenset({0})
        )
        stages = dict.fromkeys(stage for one in self.result.systems for stage in one.figures.seconds)
        rows = tuple(
            (one.name, *(number(one.figures.seconds.get(stage), ".3f") for stage in stages))
            for one in self.result.systems
        )
        names = (stage.replace("_", " ") for stage in stages)
        folded = (Table("Seconds by stage", ("system", *names), rows, frozenset({0})),) if stages else ()
        note = (
            "Tokens are those of documents, prompts included; memory is the process's, the model and Python included."
        )
        return Block("What it took", (note,), tables=(table,), folded=folded)

    def _configuration(self) -> Block:
        folded = []
        for one in self.result.systems:
            fields = {**one.identity, **{f"chunking.{key}": value for key, value in one.chunking.items()}}
            rows = [("fingerprint", one.fingerprint or "none"), *((key, plain(value)) for key, value in fields.items())]
            folded.append(Table(one.name, ("field", "value"), tuple(rows), frozenset({0, 1})))
        versions = Table("Versions", ("package", "version"), tuple(self.result.versions.items()), frozenset({0, 1}))
        return Block("Configuration", folded=(*folded, versions))

    def _id(self, *words: str) -> str:
        return "-".join([self.name, *("".join(sign if sign.isalnum() else "-" for sign in word) for word in words)])


def _difference_table(comparisons: Sequence[Comparison], metric: str, main: str) -> Table:
    rows = []
    for comparison in comparisons:
        for one in (one for one in comparison.metrics if one.metric == metric):
            means = (signed(one.first, sign=""), signed(one.second, sign=""), signed(one.difference.mean))
            p_values = (p_value(one.p_value), p_value(one.p_corrected))
            rows.append((comparison.first, *means, interval(one.difference.low, one.difference.high), *p_values))
    head = ("beside", "its mean", f"{main}", "difference", "95 %", "p", "p, Holm")
    return Table(f"{main} less each other system, {metric}", head, tuple(rows), frozenset({0}))


def _cost_row(system: System) -> tuple[str, ...]:
    figures = system.figures
    rate = "" if figures.truncation_rate is None else f" ({figures.truncation_rate:.1%})"
    memory = (figures.peak_memory_bytes, figures.peak_device_memory_bytes)
    return (
        system.name,
        number(figures.chunks or None),
        number(figures.tokens or None),
        number(figures.tokens_per_second, ",.0f"),
        f"{figures.truncated_chunks:,}{rate}" if figures.chunks else number(None),
        number(figures.truncated_queries),
        *(number(None if one is None else one / _MIB, ",.0f") for one in memory),
    )


def _facts(result: EvaluationResult) -> Iterator[tuple[str, str]]:
    counts, figures = result.counts, result.main.figures
    yield "queries", f"{len(result.queries):,}"
    chunks = f", in {figures.chunks:,} chunks" if figures.chunks else ""
    yield "documents", f"{counts.documents:,}{chunks}"
    yield "documents ranked per query", f"{result.depth:,}"
    named = ", ".join(counts.missing_ids)
    notes = {
        "queries left out, without judgements": counts.unjudged_queries,
        "queries left out, without a relevant document": counts.queries_without_relevant,
        "queries kept from finding themselves": counts.self_hits_removed,
        "documents without text": counts.documents_empty,
        "documents quarantined": figures.documents_quarantined,
    }
    yield from ((note, f"{found:,}") for note, found in notes.items() if found)
    if counts.judged_missing:
        yield "judged documents missing, counted as not found", f"{counts.judged_missing:,}: {named}"
