"""Shards of a plan: every document in exactly one, in order, within bounds, with names that tell them apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import Document
from pipelines.shards import ShardCutter, ShardPlan

TOKENS = 10  # a chunk, which is 40 bytes

texts = st.text(st.sampled_from("aé東 "), max_size=200)
corpora = st.lists(texts, max_size=60).map(
    lambda found: [Document(f"d{number}", text, "s") for number, text in enumerate(found)]
)
bounds = st.tuples(st.integers(1, 12), st.integers(0, 20)).map(lambda found: (found[0], found[0] + found[1]))


def cut(documents: list[Document], least: int = 3, most: int = 8, rate: float | None = None) -> ShardPlan:
    cutter = ShardCutter(TOKENS, rate, least=least, most=most)
    for document in documents:
        cutter.note(document)
    return cutter.plan()


def chunks(document: Document) -> int:
    """Counted without the cutter: a started chunk counts, and a document has one."""
    return max(1, (len(document.text.encode()) + 39) // 40)


@given(corpora, bounds, st.one_of(st.none(), st.floats(0.001, 10)))
def test_shards_hold_every_document_once_in_order_and_within_bounds(documents, bound, rate):
    least, most = bound
    plan = cut(documents, least, most, rate)
    assert list(plan.of) == [document.id for document in documents]
    numbers = list(plan.of.values())
    assert numbers == sorted(numbers)
    assert sorted(set(numbers)) == list(range(len(plan.shards)))
    for shard in plan.shards:
        inside = [document for document in documents if plan.of[document.id] == shard.number]
        assert inside == documents[shard.first : shard.first + shard.documents]
        assert shard.chunks == sum(map(chunks, inside))
        assert shard.chunks <= most or len(inside) == 1
    for shard, following in pairwise(plan.shards):
        ahead = chunks(documents[following.first])
        assert shard.chunks >= least or shard.chunks + ahead > most


@given(corpora, st.integers(1, 50))
def test_groups_hold_every_shard_once_in_order_and_are_no_more_than_asked_for(documents, most):
    plan = cut(documents)
    groups = plan.groups(most, "configuration")
    assert len(groups) == min(most, len(plan.shards))
    covered = [number for group in groups for number in range(group.first, group.last + 1)]
    assert covered == list(range(len(plan.shards)))
    assert sum(group.documents for group in groups) == len(documents)
    assert sum(group.chunks for group in groups) == sum(shard.chunks for shard in plan.shards)
    sizes = [group.last - group.first + 1 for group in groups]
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(corpora)
def test_shard_ids_are_the_same_for_the_same_plan_and_differ_within_it(documents):
    first = [shard.id("configuration") for shard in cut(documents).shards]
    assert [shard.id("configuration") for shard in cut(documents).shards] == first
    assert len(set(first)) == len(first)
    assert not set(first) & {shard.id("another") for shard in cut(documents).shards}


@given(corpora.filter(bool), st.data())
def test_shard_id_changes_with_any_document_of_it_and_no_other_does(documents, data):
    place = data.draw(st.integers(0, len(documents) - 1))
    old = documents[place]
    edited = Document(old.id, old.text, old.source, title="edited")
    before = cut(documents)
    after = cut([*documents[:place], edited, *documents[place + 1 :]])
    for one, other in zip(before.shards, after.shards, strict=True):
        assert (one.id("c") == other.id("c")) == (before.of[old.id] != one.number)


def test_shard_target_follows_measured_speed_and_keeps_the_bounds_of_a_minute():
    targets = [ShardCutter(256, rate).target for rate in (None, 1.0, 100.0, 5000.0)]
    assert targets == [5000, 2000, 6000, 20000]


@pytest.mark.parametrize("given", [{"chunk_tokens": 0}, {"chunk_tokens": 1, "least": 5, "most": 4}])
def test_shard_cutter_out_of_range_says_what_is_legal(given):
    with pytest.raises(ValueError, match="1 <= least <= most"):
        ShardCutter(**given)


def test_groups_less_than_one_says_what_is_legal():
    with pytest.raises(ValueError, match="at least 1 group"):
        ShardPlan().groups(0, "configuration")
