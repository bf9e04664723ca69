"""Random histories of a small corpus, and what the rules say may be searchable after each step.

A history edits, adds, renames, breaks and heals documents, changes the encoder or the chunking, rolls back and
prunes, and ends runs anywhere. `Oracle` follows it by the rules alone, without a store: it keeps, for every pipeline
and document, the forms that may be searchable. A run that came to its end leaves one of them, a run that was cut
short the old one or the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from hypothesis import strategies as st

from pipelines import ChunkingConfig, Document, RejectedDocument
from pipelines.manifest import pipeline_hash
from pipelines.physical import physical_name
from tests.pipelines.fake_encoder import FakeConfig, FakeEncoder

POISON = "Poison"
WORDS = ("Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta", "Eta", "Theta")
IDS = ("a", "b/c", "d|e", "f g", "h\nh", "ü")

# One paragraph is a chunk of the first chunking, and two of them are one of the second.
PIPELINES = (
    (FakeConfig(), ChunkingConfig(max_tokens=12)),
    (FakeConfig(), ChunkingConfig(max_tokens=24)),
    (FakeConfig(prefix_bias=0.5), ChunkingConfig(max_tokens=12)),
)


@dataclass(frozen=True)
class Form:
    """What a document is at one time; `broken` is why the source cannot read it."""

    paragraphs: tuple[str, ...] = ()
    title: str = ""
    version: int = 0
    broken: str = ""

    @property
    def fails(self) -> bool:
        return bool(self.broken) or POISON in self.paragraphs


Corpus: TypeAlias = dict[str, Form]
Forms: TypeAlias = frozenset[Form | None]
"""Forms of which one is searchable; None stands for no form at all."""
NONE: Forms = frozenset({None})


def document(identifier: str, form: Form) -> Document | RejectedDocument:
    source = f"{len(identifier)}-{identifier[0]}.txt"
    if form.broken:
        return RejectedDocument(identifier, source, f"hash of {form}", "parse", form.broken)
    text = "\n\n".join(f"{word} has a paragraph of its own with some words." for word in form.paragraphs)
    return Document(identifier, text, source, form.title, {"version": form.version})


def encoder(pipeline: int) -> FakeEncoder:
    return FakeEncoder(PIPELINES[pipeline][0], poison=POISON)


def physical_of(pipeline: int) -> str:
    config, chunking = PIPELINES[pipeline]
    return physical_name("notes", pipeline_hash(config.fingerprint(), chunking.to_dict()))


@dataclass(frozen=True)
class Edit:
    kind: str
    document: str
    other: str
    place: int
    word: int

    def apply(self, corpus: Corpus) -> None:
        if self.kind in _WHOLE:
            _WHOLE[self.kind](self, corpus)
        elif self.document in corpus:
            corpus[self.document] = _FORMS[self.kind](self, corpus[self.document])


def _add(edit: Edit, corpus: Corpus) -> None:
    if edit.document not in corpus:
        words = [WORDS[(edit.word + step) % len(WORDS)] for step in range(edit.place + 1)]
        corpus[edit.document] = Form(tuple(words))


def _delete(edit: Edit, corpus: Corpus) -> None:
    corpus.pop(edit.document, None)


def _rename(edit: Edit, corpus: Corpus) -> None:
    if edit.document in corpus and edit.other not in corpus:
        corpus[edit.other] = corpus.pop(edit.document)


def _exchange(edit: Edit, corpus: Corpus) -> None:
    if edit.document in corpus and edit.other in corpus:
        corpus[edit.document], corpus[edit.other] = corpus[edit.other], corpus[edit.document]


def _copy(edit: Edit, corpus: Corpus) -> None:
    if edit.document in corpus:
        corpus[edit.other] = corpus[edit.document]


def _insert(edit: Edit, form: Form) -> Form:
    word = POISON if edit.kind == "poison" else WORDS[edit.word]
    place = edit.place % (len(form.paragraphs) + 1)
    return replace(form, paragraphs=(*form.paragraphs[:place], word, *form.paragraphs[place:]), broken="")


def _drop(edit: Edit, form: Form) -> Form:
    place = edit.place % max(len(form.paragraphs), 1)
    return replace(form, paragraphs=form.paragraphs[:place] + form.paragraphs[place + 1 :])


def _turn(edit: Edit, form: Form) -> Form:
    place = edit.place % max(len(form.paragraphs), 1)
    return replace(form, paragraphs=form.paragraphs[place:] + form.paragraphs[:place])


def _heal(edit: Edit, form: Form) -> Form:
    return replace(form, paragraphs=tuple(word for word in form.paragraphs if word != POISON), broken="")


_WHOLE = {"add": _add, "delete": _delete, "rename": _rename, "exchange": _exchange, "copy": _copy}
_FORMS = {
    "insert": _insert,
    "poison": _insert,
    "drop": _drop,
    "turn": _turn,
    "heal": _heal,
    "empty": lambda edit, form: Form(),
    "title": lambda edit, form: replace(form, title=WORDS[edit.word]),
    "note": lambda edit, form: replace(form, version=edit.word),
    "break": lambda edit, form: replace(form, broken=f"broken {edit.word}"),
}


@dataclass(frozen=True)
class Step:
    """What changes, and what is done then; `crash` is the write at which the process ends, and `applied` its fate."""

    edits: tuple[Edit, ...] = ()
    action: str = "ingest"
    pipeline: int = 0
    delete: str = "all"
    allowed: int | None = None
    crash: int | None = None
    applied: bool = False


START: Corpus = {
    "a": Form(("Alpha", "Beta", "Gamma")),
    "b/c": Form(("Delta",)),
    "d|e": Form(("Epsilon", "Zeta", "Epsilon", "Zeta", "Eta")),
    "f g": Form(("Theta", "Theta")),
}

edits = st.builds(
    Edit,
    st.sampled_from([*_FORMS, *_WHOLE]),
    st.sampled_from(IDS),
    st.sampled_from(IDS),
    st.integers(0, 4),
    st.integers(0, len(WORDS) - 1),
)
crashes = st.one_of(st.integers(0, 9), st.integers(0, 30), st.none())
ingests = st.builds(
    Step,
    st.lists(edits, max_size=4).map(tuple),
    st.just("ingest"),
    st.sampled_from([0, 0, 0, 0, 1, 2]),
    st.sampled_from(["all", "all", "guarded", "none"]),
    st.sampled_from([None, None, None, None, 0, 1]),
    crashes,
    st.booleans(),
)
others = st.builds(Step, action=st.sampled_from(["rollback", "prune"]), crash=crashes, applied=st.booleans())
histories = st.lists(st.integers(0, 7).flatmap(lambda chance: others if chance == 0 else ingests), max_size=7)


@dataclass
class Oracle:
    """What may be searchable, by the rules alone.

    Attributes:
        live: Pipeline that the name stands for; None before the first run.
        forms: Pipeline -> document -> forms, of which one is searchable in the collection of that pipeline.
    """

    live: int | None = None
    forms: dict[int, dict[str, Forms]] = field(default_factory=dict)

    def of(self, pipeline: int, identifier: str) -> Forms:
        return self.forms.get(pipeline, {}).get(identifier, NONE)

    def after(self, pipeline: int, identifier: str, corpus: Corpus, delete: str, *, rebuilt: bool) -> Forms:
        """Forms of a document after a run that comes to its end."""
        if identifier in corpus:
            if not corpus[identifier].fails:
                return frozenset({corpus[identifier]})
            before = self.of(pipeline, identifier)
            # One that a kill left half written takes no part when the name returns to its collection.
            return before | NONE if rebuilt and len(before) > 1 else before
        return self.of(pipeline, identifier) if delete == "none" and not rebuilt else NONE

    def outcome(self, pipeline: int, corpus: Corpus, delete: str) -> dict[str, Forms]:
        rebuilt = self.live is not None and self.live != pipeline
        known = {**self.forms.get(pipeline, {}), **corpus}
        return {one: self.after(pipeline, one, corpus, delete, rebuilt=rebuilt) for one in known}

    def searchable(self, seen: int, pipeline: int, outcome: Mapping[str, Forms]) -> Iterator[tuple[str, Forms]]:
        """Forms of which one is complete at any moment of a run, in the collection that the name stands for.

        Args:
            seen: Pipeline that the name stands for at that moment.
            pipeline: Of the run.
            outcome: What the run leaves there.
        """
        for one in {**self.forms.get(seen, {}), **outcome}:
            if seen != pipeline:
                yield one, self.of(seen, one)
            elif self.live in (None, seen):
                yield one, self.of(seen, one) | outcome.get(one, NONE)
            else:
                yield one, outcome.get(one, NONE)

    def came_to_its_end(self, pipeline: int, outcome: dict[str, Forms]) -> None:
        self.forms[pipeline] = outcome
        self.live = pipeline

    def was_cut_short(self, pipeline: int, outcome: Mapping[str, Forms]) -> None:
        self.forms[pipeline] = {one: self.of(pipeline, one) | forms for one, forms in outcome.items()}

    def pruned(self, *, wholly: bool) -> None:
        for pipeline in [other for other in self.forms if other != self.live]:
            if wholly:
                del self.forms[pipeline]
            else:
                self.forms[pipeline] = {one: forms | NONE for one, forms in self.forms[pipeline].items()}
