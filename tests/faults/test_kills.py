"""Real processes, really killed: a reader misses nothing meanwhile, and one good run equals a clean build."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.attended import Attended
from tests.faults.histories import WORDS, Corpus, Edit, Form
from tests.faults.workshop import Workshop, workshop

DOCUMENTS = 40
KINDS = ("add", "delete", "rename", "exchange", "copy", "insert", "drop", "turn", "title", "note", "break", "poison")
HEALS = ("heal", "heal")


@pytest.fixture(scope="module")
def doomed() -> Iterator[Workshop]:
    with workshop() as opened:
        yield opened


class Editor:
    """Goes from one edition to the next: documents come, go, change, and get another id, as they are or edited."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.ids = [f"d{number}" for number in range(DOCUMENTS + 10)]
        self.corpus: Corpus = {one: Form(tuple(self.chance.choices(WORDS, k=6))) for one in self.ids[:DOCUMENTS]}

    def edit(self, count: int) -> None:
        for _ in range(count):
            kind = self.chance.choice((*KINDS, *HEALS))
            one, other = self.chance.sample(self.ids, 2)
            place, word = self.chance.randrange(5), self.chance.randrange(len(WORDS))
            Edit(kind, one, other, place, word).apply(self.corpus)


def killed_often(attended: Attended, editor: Editor, kills: int, writing: int) -> int:
    """Index edition after edition, killed at random moments; returns the pipeline of the last run.

    The moments are counted from what a process says, for a busy machine comes to it late.
    """
    chance, pipeline, attempts = editor.chance, 0, 0
    while attended.kills < kills or attended.writing < writing:
        attempts += 1
        assert attempts < 5 * kills, "hardly any process lived long enough to be killed while it wrote"
        if chance.random() < 0.5:
            editor.edit(15)
            pipeline = chance.choice((pipeline, pipeline, pipeline, 0, 1, 2))
        order = attended.order(editor.corpus, pipeline, seconds=0.001)
        word = chance.choice(("compared", "writing", "writing"))
        attended.carry_out(order, kill_after=(word, chance.uniform(0.0, 0.4)))
    return pipeline


def check(doomed: Workshop, folder: Path, kills: int, writing: int, seed: int) -> Attended:
    attended, editor = Attended(doomed, folder), Editor(seed)
    pipeline = killed_often(attended, editor, kills, writing)
    assert attended.carry_out(attended.order(editor.corpus, pipeline))
    assert attended.equals_a_clean_build(editor.corpus, pipeline)
    return attended


def test_ingest_killed_at_random_moments_then_run_once_equals_a_clean_build(doomed: Workshop, tmp_path: Path) -> None:
    check(doomed, tmp_path, 8, 4, seed=20260101)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ingest_killed_sixty_times_in_one_history_equals_a_clean_build(
    doomed: Workshop, tmp_path: Path, seed: int
) -> None:
    attended = check(doomed, tmp_path, 60, 30, seed)
    assert attended.rebuilding >= 10, "hardly any process was killed while it built a new generation"
    assert attended.kills - attended.rebuilding >= 5, "hardly any process was killed while it updated"
