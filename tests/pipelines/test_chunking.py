"""Chunks: exact spans, never over budget, nothing lost; for two kinds of tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import fmean

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipelines.chunking import Chunker, ChunkingConfig
from pipelines.documents import Document, Heading
from pipelines.errors import ChunkingError, TerminalError
from pipelines.parsing import parse
from tests.golden.make_spans import SPANS_FILE, spans
from tests.pipelines.fake_encoder import FakeEncoder
from tests.pipelines.prose import EDITS, LAYOUTS, prose

SAMPLE = (
    "Documents become chunks, chunks become vectors. <|end|> naïve café 東京 שלום 🙂 12345 def f(x):\n    return x\n"
)


def byte_level():
    """Build a tokenizer of the GPT kind, which also knows a special token that texts may spell out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([SAMPLE] * 4, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def byte_fallback():
    """Build a tokenizer of the Llama 2 kind: a sign for spaces, and bytes for unknown characters."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + sorted(set(SAMPLE.replace(" ", "▁")) - {"東"}) + ["▁c", "ch"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(["<unk>", *pieces]))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("▁", "c"), ("c", "h")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    return tokenizer


@dataclass(frozen=True)
class Budget:
    """What chunking needs of an encoder."""

    tokenizer: Tokenizer
    document_budget: int = 480

    def count(self, text):
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


BUDGETS = {"byte-level": Budget(byte_level()), "byte-fallback": Budget(byte_fallback())}
WORDS = Budget(FakeEncoder().tokenizer)


@pytest.fixture(params=BUDGETS)
def budget(request):
    return BUDGETS[request.param]


AWKWARD = st.text(
    st.one_of(
        st.sampled_from(" \n\t\r#*`-=>|.,;abcxyz0189"),
        st.sampled_from("é\u0301\u0323\u200d\ufeff\u00a0\u2028\u2029\x0b\x0c\x1c\x85\x7f🙂👩🇩🇪שָׁمُ한東ﷺ"),
        st.characters(exclude_categories=("Cs",), exclude_characters="\0"),
    ),
    max_size=300,
)
TEXTS = st.one_of(
    AWKWARD, st.lists(AWKWARD, max_size=6).map("\r\n\r\n".join), st.lists(AWKWARD, max_size=6).map(" ".join)
)
FORMATS = st.sampled_from(["plain", "markdown"])


def document(text, **fields):
    return Document(**{"id": "a", "text": text, "source": "s", **fields})


def cut(text, budget, *, title="", format="plain", headings=(), **config):
    given_document = document(text, title=title, format=format, headings=headings)
    return list(Chunker(ChunkingConfig(**config), budget).chunks(given_document))


def uncovered(text, chunks):
    seen = bytearray(len(text))
    for chunk in chunks:
        seen[chunk.start : chunk.end] = b"\1" * len(chunk.text)
    return "".join(character for place, character in enumerate(text) if not seen[place] and not character.isspace())


def assert_exact(text, chunks, budget, limit):
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert sorted(chunk.start for chunk in chunks) == [chunk.start for chunk in chunks]
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert chunk.embedded_text.endswith(chunk.text)
        assert budget.count(chunk.embedded_text) <= limit


@pytest.mark.parametrize("name", BUDGETS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, title=AWKWARD, format=FORMATS, limit=st.integers(12, 60))
@example(text="a\r\n\r\nb\u2028c \u00a0\x1c", title="", format="plain", limit=12)
@example(text="e" + "\u0301" * 200, title="t", format="plain", limit=12)
def test_chunks_of_any_text_are_exact_within_budget_and_lose_nothing(name, text, title, format, limit):
    budget = BUDGETS[name]
    chunks = cut(text, budget, title=title, format=format, max_tokens=limit)
    assert_exact(text, chunks, budget, limit)
    assert uncovered(text, chunks) == ""
    assert all(before.end <= after.start for before, after in pairwise(chunks))


@pytest.mark.parametrize("name", BUDGETS)
@settings(max_examples=80, deadline=None)
@given(text=TEXTS, format=FORMATS, limit=st.integers(12, 60), share=st.integers(2, 5))
def test_chunks_with_overlap_are_exact_within_budget_and_lose_nothing(name, text, format, limit, share):
    budget = BUDGETS[name]
    chunks = cut(text, budget, title="A title", format=format, max_tokens=limit, overlap_tokens=limit // share)
    assert_exact(text, chunks, budget, limit)
    assert uncovered(text, chunks) == ""


def test_chunks_overlap_repeats_the_end_of_the_chunk_before(budget):
    text = " ".join(f"word{number}." for number in range(200))
    chunks = cut(text, budget, max_tokens=64, overlap_tokens=24)
    assert all(after.start < before.end for before, after in pairwise(chunks))
    repeated = [text[after.start : before.end] for before, after in pairwise(chunks)]
    assert max(map(budget.count, repeated)) <= 24 + 1


@pytest.mark.parametrize(
    "word",
    ["x7Q" * 1667, "0aZ" * 33_334, "e" + "\u0301" * 1000],
    ids=["5,000", "100,000", "one character, 1,000 marks"],
)
def test_chunks_one_word_longer_than_a_chunk_is_cut_into_pieces(budget, word):
    chunks = cut(word, budget, max_tokens=100)
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == word
    assert_exact(word, chunks, budget, 100)


@pytest.mark.parametrize("format", ["plain", "markdown"])
def test_chunks_longer_than_a_block_are_exact_and_lose_nothing(budget, format):
    text = "".join(
        f"# Part {number}\r\n\r\n" + "Some prose about it, with words. " * 40 + "\r\n\r\n" + "ab7" * 300 + "\n\n"
        for number in range(12)
    )
    assert len(text) > 20_000
    chunks = cut(text, budget, format=format)
    assert_exact(text, chunks, budget, 256)
    assert uncovered(text, chunks) == ""


def test_chunks_unbroken_run_longer_than_a_block_is_cut_in_order(budget):
    text = "0aZ" * 6000
    chunks = cut(text, budget)
    assert "".join(chunk.text for chunk in chunks) == text


@pytest.mark.parametrize("text", ["", " ", "\n\t\r\n", "\u00a0\u2003"])
def test_chunks_of_nothing_but_white_space_are_none(budget, text):
    assert cut(text, budget) == []


def test_chunks_same_document_twice_are_the_same(budget):
    text = SAMPLE * 50
    assert cut(text, budget, title="t") == cut(text, budget, title="t")


def test_chunks_special_token_spelled_in_a_text_counts_as_text():
    budget = BUDGETS["byte-level"]
    assert budget.count("<|end|>") > 1, "otherwise this says nothing"
    text = "<|end|>" * 100
    chunks = cut(text, budget, max_tokens=32)
    assert_exact(text, chunks, budget, 32)
    assert uncovered(text, chunks) == ""


def test_chunks_character_larger_than_the_budget_stands_alone_and_is_not_lost():
    flag = "🇩🇪" * 20
    chunks = cut(flag, BUDGETS["byte-level"], max_tokens=8, title="a title", context="title")
    assert "".join(chunk.text for chunk in chunks) == flag


def test_title_stands_before_chunks_that_do_not_begin_with_it(budget):
    text = "# The  title\n\n" + "Some prose about it. " * 60
    chunks = cut(text, budget, title="The title", format="markdown", max_tokens=64)
    assert chunks[0].embedded_text == chunks[0].text
    assert len(chunks) > 1
    assert all(chunk.embedded_text == f"The title\n{chunk.text}" for chunk in chunks[1:])


def test_title_context_none_embeds_the_text_alone(budget):
    assert all(chunk.embedded_text == chunk.text for chunk in cut("prose " * 200, budget, title="T", context="none"))


def test_title_is_cut_to_a_quarter_of_the_budget(budget):
    title = "very long title 東京🙂 " * 100
    for limit in (12, 32, 101):
        chunks = cut("a b c d e f " * 30, budget, title=title, max_tokens=limit)
        context = chunks[0].embedded_text.removesuffix(chunks[0].text)
        assert budget.count(context) <= limit // 4
        assert_exact("a b c d e f " * 30, chunks, budget, limit)
    assert context.startswith("very long title")


def test_budget_of_the_encoder_lowers_the_configured_one(budget):
    small = Budget(budget.tokenizer, document_budget=20)
    chunks = cut("some words here " * 50, small, max_tokens=256)
    assert_exact("some words here " * 50, chunks, budget, 20)


def test_budget_too_small_for_any_content_is_an_error(budget):
    with pytest.raises(ChunkingError, match=r"room for 7 content tokens .*at least 8; raise EncoderConfig.max_length"):
        Chunker(ChunkingConfig(), Budget(budget.tokenizer, document_budget=7))
    assert issubclass(ChunkingError, TerminalError)


def cut_words(text):
    """Cut text as Markdown into chunks of at most 40 words and signs, some 200 of them here."""
    parsed = parse(text.encode(), ".md")
    return cut(text, WORDS, format=parsed.format, headings=parsed.headings, max_tokens=40)


def to_embed(before, after):
    """Count the chunks of a new form that the old one has not."""
    return sum(
        (Counter(chunk.content_hash for chunk in after) - Counter(chunk.content_hash for chunk in before)).values()
    )


@pytest.mark.parametrize(
    ("layout", "mean", "most"), [("headings", 9, 30), ("paragraphs", 2.2, 10), ("lines", 2.2, 10), ("sentences", 9, 30)]
)
def test_chunks_far_from_an_edit_stay_as_they_are(layout, mean, most):
    """With blocks that end at a distance from their start, every layout breaks its bounds: to 23, 3, 6 and 45."""
    text = prose(1, 6500, layout)
    before = cut_words(text)
    assert 200 <= len(before) <= 250
    changed = [to_embed(before, cut_words(edit(text, Random(seed)))) for edit in EDITS.values() for seed in range(8)]
    assert fmean(changed) <= mean, sorted(changed)
    assert max(changed) <= most, sorted(changed)


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(list(LAYOUTS)),
    edits=st.lists(st.tuples(st.sampled_from(list(EDITS)), st.integers(0, 10**6)), min_size=1, max_size=3),
)
def test_chunks_of_an_edited_text_are_exact_and_mostly_those_of_before(layout, edits):
    text = edited = prose(2, 6500, layout)
    for name, seed in edits:
        edited = EDITS[name](edited, Random(seed))
    before, after = cut_words(text), cut_words(edited)
    assert_exact(edited, after, WORDS, 40)
    assert uncovered(edited, after) == ""
    assert to_embed(before, after) <= 40 * len(edits)


SECTIONS = "intro " * 30 + "\n\n# A\n\n" + "a " * 60 + "\n\n### B\n\n" + "b " * 60 + "\n\n## C\n\n" + "c " * 60


@pytest.mark.parametrize("suffix", [".md", ".rst"])
def test_chunks_with_headings_stay_in_their_section_and_keep_its_heading(budget, suffix):
    text = SECTIONS
    if suffix == ".rst":
        text = SECTIONS.replace("### B", "B\n~~~").replace("## C", "C\n--").replace("# A", "==\nA\n==")
    parsed = parse(text.encode(), suffix)
    chunks = cut(text, budget, format=parsed.format, headings=parsed.headings, max_tokens=100)
    assert_exact(text, chunks, budget, 100)
    assert uncovered(text, chunks) == ""
    paths = {"o": (), "a": ("A",), "b": ("A", "B"), "c": ("A", "C") if suffix == ".md" else ("A", "B", "C")}
    for chunk in chunks:
        letters = set(chunk.text) & set("oabc")
        assert len(letters) == 1, "a chunk in two sections has no one path, and a heading alone says nothing"
        assert chunk.heading_path == paths[letters.pop()]


def test_chunks_small_subsections_go_with_their_section_and_siblings_stay_apart(budget):
    text = "# A\n\none\n\n## B\n\ntwo\n\n# C\n\nthree"
    parsed = parse(text.encode(), ".md")
    chunks = cut(text, budget, format="markdown", headings=parsed.headings, max_tokens=100)
    assert [(chunk.text, chunk.heading_path) for chunk in chunks] == [
        ("# A\n\none\n\n## B\n\ntwo", ("A",)),
        ("# C\n\nthree", ("C",)),
    ]


def test_chunks_cross_the_pages_of_a_pdf(budget):
    headings = (Heading(0, 100, "page 1"), Heading(6, 100, "page 2"))
    (chunk,) = cut("first\n\nsecond", budget, headings=headings)
    assert chunk.heading_path == ("page 1",)


@pytest.mark.parametrize("name", BUDGETS)
@settings(max_examples=80, deadline=None)
@given(parts=st.lists(st.tuples(st.integers(1, 6), AWKWARD, AWKWARD), max_size=6), limit=st.integers(12, 40))
def test_chunks_of_any_sections_are_exact_within_budget_and_lose_nothing(name, parts, limit):
    text, headings = "", []
    for level, title, body in parts:
        headings.append(Heading(len(text), level, title))
        text += f"{title}\n\n{body}\n"
    chunks = cut(text, BUDGETS[name], title="T", headings=tuple(headings), max_tokens=limit)
    assert_exact(text, chunks, BUDGETS[name], limit)
    assert uncovered(text, chunks) == ""


def test_chunks_section_longer_than_a_block_stays_within_budget(budget):
    text = "A heading of some words\n\n" + "0aZ" * 12_000
    chunks = cut(text, budget, headings=(Heading(0, 1, "A heading of some words"),), max_tokens=40)
    assert_exact(text, chunks, budget, 40)
    assert uncovered(text, chunks) == ""


def test_heading_path_chunk_that_begins_with_a_heading_is_in_its_section(budget):
    headings = (Heading(0, 1, "A"), Heading(10, 2, "B"), Heading(20, 1, "C"))
    chunks = cut("A.........B.........C.........", budget, headings=headings)
    assert chunks[0].heading_path == ("A",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 7}, "max_tokens is 7; it must be a whole number, at least 8"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": 64.0}, "max_tokens is 64.0"),
        ({"overlap_tokens": -1}, "overlap_tokens is -1; it must be a whole number from 0 to 128"),
        ({"max_tokens": 20, "overlap_tokens": 11}, "overlap_tokens is 11; it must be a whole number from 0 to 10"),
        ({"context": "all"}, "context is 'all'; legal are title, none"),
    ],
)
def test_chunking_config_illegal_field_is_refused_with_what_is_legal(fields, message):
    with pytest.raises(ChunkingError, match=message):
        ChunkingConfig(**fields)


def test_chunking_config_survives_its_dictionary():
    config = ChunkingConfig(max_tokens=99, overlap_tokens=9, context="none")
    assert ChunkingConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ChunkingError, match=r"unknown chunking fields \['size'\]; legal are"):
        ChunkingConfig.from_dict({"size": 1})


def test_chunking_config_says_its_rules_and_nobody_can_ask_for_others():
    assert ChunkingConfig().to_dict()["rules"] == ChunkingConfig.rules
    with pytest.raises(TypeError, match="unexpected keyword argument 'rules'"):
        ChunkingConfig(rules=1)


@pytest.mark.parametrize("older", [{}, {"rules": 1}, {"rules": ChunkingConfig.rules}])
def test_chunking_config_of_older_rules_keeps_its_choices_and_says_the_rules_of_today(older):
    """A stored record without the number is of the first rules; `to_dict` then differs from it, so it is rebuilt."""
    config = ChunkingConfig.from_dict({"max_tokens": 99, **older})
    assert config == ChunkingConfig(max_tokens=99)
    assert config.to_dict()["rules"] == ChunkingConfig.rules


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (ChunkingConfig.rules + 1, r"cut by rules 3 and this kvembed knows them up to 2; upgrade kvembed"),
        (0, "rules is 0; it must be a whole number from 1 to 2"),
        (True, "rules is True; it must be"),
        ("2", "rules is '2'; it must be"),
        (None, "rules is None; it must be"),
    ],
)
def test_chunking_config_of_unknown_rules_is_refused(rules, message):
    with pytest.raises(ChunkingError, match=message):
        ChunkingConfig.from_dict({"rules": rules})


def test_chunks_of_fixed_texts_end_where_the_rules_say():
    """A splitter or a line of ours that cuts elsewhere would mix chunks of two kinds in collections that exist."""
    golden = json.loads(SPANS_FILE.read_text())
    assert golden["rules"] == ChunkingConfig.rules, "write the spans anew: python -m tests.golden.make_spans"
    for case in golden["cases"]:
        found = spans(case["name"], golden["texts"][case["name"]], case["tokenizer"], case["config"])
        assert found == case["spans"], f"{case['name']} is cut elsewhere: raise ChunkingConfig.rules, and write anew"


def test_chunks_given_to_the_encoder_are_never_truncated(make_encoder):
    encoder = make_encoder(max_length=96)
    text = "Prose, naïve café, 東京 🙂👩‍👩‍👧 שלום <|end|> and 12345. " * 40
    chunks = list(Chunker(ChunkingConfig(), encoder).chunks(document(text, title="A title 🙂")))
    encoding = encoder.encode_counted([chunk.embedded_text for chunk in chunks], "document")
    assert encoding.truncated_tokens.tolist() == [0] * len(chunks)
