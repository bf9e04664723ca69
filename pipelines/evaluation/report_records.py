"""What a report's page shows, as records that its templates read; texts in them are as the data have them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing.

    Attributes:
        svg: As `draw_svg` makes it.
        caption: What it shows, in a sentence.
    """

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Table:
    """Words and numbers in rows.

    Attributes:
        caption: What it shows.
        head: Of the columns; the first column names the rows.
        rows: As long as the head; a cell's second line is of less weight.
        words: Places of columns that hold words; the others hold numbers.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """A document in a ranking.

    Attributes:
        id: Of the document.
        place: In the ranking, from 1; None where it is not among those ranked.
        beside: Place in the ranking of the system beside; None also where there is no such system.
        grade: As judged; None where nothing was judged.
        text: How it begins; "" where no text was at hand.
    """

    id: str
    place: int | None
    beside: int | None
    grade: int | None
    text: str


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query with what it found and what it should have found.

    Attributes:
        id: Of the query.
        text: What was asked.
        value: Of the metric, under the system asked about.
        beside: The same under the system beside; None where there is none.
        found: The first that the system asked about found.
        wanted: The first of the relevant documents, best place first, those already in `found` left out.
        relevant: How many documents are relevant.
    """

    id: str
    text: str
    value: float
    beside: float | None
    found: tuple[Found, ...]
    wanted: tuple[Found, ...]
    relevant: int


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """Queries that are shown for one reason.

    Attributes:
        title: The reason.
        queries: The most telling first.
    """

    title: str
    queries: tuple[ShownQuery, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a section.

    Attributes:
        title: Its heading.
        notes: Sentences.
        charts: Shown side by side where there is room.
        tables: Below them.
        folded: Tables that are opened on demand.
        groups: Queries.
    """

    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    groups: tuple[QueryGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A result.

    Attributes:
        name: Of letters, digits and `-`, unique in the page.
        title: Its heading.
        facts: What it is about: name -> value.
        commands: What made it; none where that is not known.
        blocks: Its parts.
        main: Name of the system asked about.
        beside: Name of the system that stands beside it in scatter, buckets and queries; "" without one.
    """

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    blocks: tuple[Block, ...]
    main: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A report.

    Attributes:
        title: Its heading.
        metric: By which queries are chosen and methods set against each other.
        sections: A result each.
    """

    title: str
    metric: str
    sections: tuple[Section, ...]
