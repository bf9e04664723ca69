"""Blocks: together the text, neither too short nor too long, and ended by the text around them."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.blocks import blocks
from tests.pipelines.prose import LAYOUTS, prose

TEXTS = st.text(st.sampled_from("ab. ,\n\t\ré東。🙂\u0301"), max_size=400)


def ends(text, shortest=600):
    return {end for _, end in blocks(text, 0, len(text), shortest)}


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, shortest=st.integers(1, 80), first=st.integers(0, 20), last=st.integers(0, 20))
def test_blocks_are_together_the_text(text, shortest, first, last):
    start, end = min(first, len(text)), max(len(text) - last, min(first, len(text)))
    found = list(blocks(text, start, end, shortest))
    assert (found[0][0], found[-1][1]) == (start, end)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(len(text[first:last].encode()) >= shortest for first, last in found) or len(found) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_are_neither_short_nor_long(layout):
    text = prose(1, 6000, layout)
    sizes = [len(text[start:end].encode()) for start, end in blocks(text, 0, len(text), 600)]
    assert len(sizes) > 30
    assert 600 <= min(sizes) <= max(sizes) < 1300


@pytest.mark.parametrize(
    ("pattern", "ending"),
    [
        ("One two, number {}. Three\nfour.\n\n", "\n\n"),
        ("One two, number {}. Three\r\nfour.\r\n \r\n", "\r\n \r\n"),
        ("One two, number {}. Three four.\n", "\n"),
        ("One two, number {}. Three four", ". "),
        ("one two, number {} three", " "),
        ("one,two,number{},three", ","),
    ],
)
def test_blocks_end_at_the_best_boundary_there_is(pattern, ending):
    text = "".join(pattern.format(number) for number in range(200))
    found = sorted(ends(text, 300))[:-1]
    assert len(found) > 5
    assert all(text[:end].endswith(ending) for end in found)


def test_blocks_of_a_script_without_spaces_end_at_its_sentences_and_count_bytes():
    random = Random(5)
    text = "".join("".join(chr(random.randrange(0x4E00, 0x9000)) for _ in range(12)) + "。" for _ in range(300))
    found = list(blocks(text, 0, len(text), 600))
    assert all(text[end - 1] == "。" for _, end in found)
    assert max(len(text[start:end].encode()) for start, end in found) < 1300


def test_blocks_of_an_unbroken_run_are_cut_by_distance():
    assert list(blocks("x" * 2500, 0, 2500, 600)) == [(0, 600), (600, 1200), (1200, 2500)]


def test_blocks_of_repeated_text_go_on():
    """Every place has the same hash; then the first that is far enough is as good as any."""
    found = list(blocks("the same line\n" * 1000, 0, 14_000, 600))
    assert all(600 <= end - start < 1200 for start, end in found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_far_from_an_edit_end_where_they_did(layout):
    text = prose(1, 8000, layout)
    before = ends(text)
    lost = []
    for seed in range(60):
        at = Random(seed).randrange(len(text))
        after = {end if end <= at else end - 9 for end in ends(text[:at] + "inserted " + text[at:])}
        lost.append(len(before - after))
    assert len(before) > 50
    assert sum(lost) <= 40, lost
    assert max(lost) <= 6, lost
