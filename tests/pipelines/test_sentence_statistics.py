"""Correlations, accuracy and macro-F1: against scipy and scikit-learn, drawn, left out and traded."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation import randomisation_test
from pipelines.evaluation.sentence_statistics import (
    Figure,
    accuracy,
    difference,
    estimates,
    macro_f1,
    pearson,
    spearman,
    trading_test,
)

LABELS = ("ice", "bread", "ships", "never seen")


def tied_scores(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers and what people said, both with many ties."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 6, count) / 2
    return np.round(gold + generator.normal(0.0, 1.0, count), 1), gold


def guesses(count: int, seed: int = 0, right: float = 0.6) -> tuple[list[str], list[str]]:
    """Answers and labels; one label is rare, one is answered and never right."""
    generator = np.random.default_rng(seed)
    gold = generator.choice(LABELS[:3], count, p=[0.6, 0.35, 0.05]).tolist()
    wrong = generator.choice(LABELS, count).tolist()
    return [
        label if lucky else other
        for label, other, lucky in zip(gold, wrong, generator.random(count) < right, strict=True)
    ], gold


@given(st.integers(4, 60), st.integers(0, 2**16))
def test_figures_equal_scipy_and_scikit_learn(count: int, seed: int):
    answers, gold = tied_scores(count, seed)
    if np.ptp(answers) > 0 and np.ptp(gold) > 0:
        assert spearman(answers, gold).value == pytest.approx(scipy.stats.spearmanr(answers, gold)[0], abs=1e-12)
        assert pearson(answers, gold).value == pytest.approx(scipy.stats.pearsonr(answers, gold)[0], abs=1e-12)
    said, labels = guesses(count, seed)
    assert accuracy(said, labels).value == sklearn.metrics.accuracy_score(labels, said)
    expected = sklearn.metrics.f1_score(labels, said, average="macro", zero_division=0.0)
    assert macro_f1(said, labels, LABELS).value == pytest.approx(expected, abs=1e-12)


@given(st.integers(5, 40), st.integers(0, 2**16))
@settings(max_examples=50)
def test_figures_of_a_drawn_sample_equal_those_of_its_items_repeated(count: int, seed: int):
    """Weights stand for repeated items; ranks among them are those that scipy gives the repeated items."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, count, count)
    weights = np.bincount(chosen, minlength=count)[None, :].astype(float)
    answers, gold = tied_scores(count, seed)
    said, labels = guesses(count, seed)
    if np.ptp(answers[chosen]) > 0 and np.ptp(gold[chosen]) > 0:
        expected = scipy.stats.spearmanr(answers[chosen], gold[chosen])[0]
        assert spearman(answers, gold).drawn(weights)[0] == pytest.approx(expected, abs=1e-9)
        expected = scipy.stats.pearsonr(answers[chosen], gold[chosen])[0]
        assert pearson(answers, gold).drawn(weights)[0] == pytest.approx(expected, abs=1e-9)
    repeated = [[column[place] for place in chosen] for column in (labels, said)]
    found = macro_f1(said, labels, LABELS).drawn(weights)[0]
    assert found == pytest.approx(sklearn.metrics.f1_score(*repeated, average="macro", zero_division=0.0), abs=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [(spearman, scipy.stats.spearmanr), (pearson, scipy.stats.pearsonr)])
def test_intervals_of_correlations_equal_scipy(ours, theirs):
    answers, gold = tied_scores(40)
    found, _, _ = estimates([ours(answers, gold)], resamples=1500, seed=5)
    expected = scipy.stats.bootstrap(
        (answers, gold),
        lambda x, y: theirs(x, y)[0],
        paired=True,
        vectorized=False,
        n_resamples=1500,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (found[0].low, found[0].high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_interval_of_macro_f1_equals_scipy():
    said, gold = guesses(40)
    found, _, _ = estimates([macro_f1(said, gold, LABELS)], resamples=300, seed=5)
    places = np.arange(40)
    expected = scipy.stats.bootstrap(
        (places,),
        lambda drawn: sklearn.metrics.f1_score(
            [gold[place] for place in drawn], [said[place] for place in drawn], average="macro", zero_division=0.0
        ),
        vectorized=False,
        n_resamples=300,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (found[0].low, found[0].high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_difference_rests_on_the_same_draws_of_both():
    """Two systems that answer alike differ by 0 in every draw, however wide the interval of each is."""
    answers, gold = tied_scores(60)
    figures = [spearman(answers, gold), spearman(2 * answers + 1, gold)]
    found, drawn, without = estimates(figures, resamples=500)
    assert found[0].high - found[0].low > 0.1
    apart = difference(found[0].mean, found[1].mean, drawn, without)
    assert (apart.mean, apart.low, apart.high) == (0.0, 0.0, 0.0)


def test_draws_without_a_correlation_do_not_count():
    """Of three pairs, a draw often has one alone; scipy's interval is NaN then, and NaN is no JSON."""
    found, drawn, _ = estimates([spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))], resamples=200)
    assert np.isnan(drawn).any()
    assert -1.0 <= found[0].low <= found[0].mean <= found[0].high <= 1.0


def test_trading_test_of_accuracy_equals_the_randomisation_test():
    (first, gold), (second, _) = guesses(30, right=0.8), guesses(30, right=0.6)
    figures = accuracy(first, gold), accuracy(second, gold)
    apart = np.array([(a == c) - float(b == c) for a, b, c in zip(first, second, gold, strict=True)])
    assert 3 <= np.count_nonzero(apart) <= 14
    assert trading_test(*figures) == pytest.approx(randomisation_test(apart[:, None])[0], abs=1e-12)


def test_trading_test_of_macro_f1_equals_scipy():
    (first, gold), (second, _) = guesses(8), guesses(8, right=0.1)

    def apart(said: np.ndarray, other: np.ndarray) -> float:
        scores = [
            sklearn.metrics.f1_score(gold, [LABELS[int(place)] for place in row], average="macro", zero_division=0.0)
            for row in (said, other)
        ]
        return float(scores[0] - scores[1])

    places = [[LABELS.index(label) for label in column] for column in (first, second)]
    expected = scipy.stats.permutation_test(
        places, apart, permutation_type="samples", vectorized=False, n_resamples=2**8
    ).pvalue
    figures = [macro_f1(column, gold, LABELS) for column in (first, second)]
    assert trading_test(*figures) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("kind", "scale"), [(spearman, scipy.stats.rankdata), (pearson, scipy.stats.zscore)])
def test_trading_test_of_correlations_equals_scipy(kind, scale):
    """Ranks, and values of one scale, are traded: a system whose cosines are all high must not lose by that."""
    answers, gold = tied_scores(10)
    other = 100 + 7 * np.random.default_rng(3).normal(size=10)
    expected = scipy.stats.permutation_test(
        (scale(answers), scale(other)),
        lambda x, y: scipy.stats.pearsonr(x, scale(gold))[0] - scipy.stats.pearsonr(y, scale(gold))[0],
        permutation_type="samples",
        vectorized=False,
        n_resamples=2**10,
    ).pvalue
    assert trading_test(kind(answers, gold), kind(other, gold)) == pytest.approx(expected, abs=1e-12)


def test_trading_test_finds_what_is_there_and_little_else():
    """Two systems of equal skill are told apart at 5 % about once in twenty."""
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        gold = generator.normal(size=60)
        pair = [spearman(gold + generator.normal(size=60), gold) for _ in range(2)]
        p_values.append(trading_test(*pair, permutations=400, seed=int(generator.integers(1 << 30))))
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.10
    gold = generator.normal(size=200)
    better, worse = (gold + spread * generator.normal(size=200) for spread in (0.5, 1.5))
    assert trading_test(spearman(better, gold), spearman(worse, gold), permutations=999) == 0.001


def test_trading_test_of_equal_answers_is_1():
    answers, gold = tied_scores(20)
    assert trading_test(spearman(answers, gold), spearman(answers, gold)) == 1.0


def test_pieces_equal_the_whole(monkeypatch: pytest.MonkeyPatch):
    answers, gold = tied_scores(30)
    figures = [spearman(answers, gold), pearson(answers, gold)]
    other: Figure = spearman(-answers, gold)
    whole = estimates(figures, resamples=300)[0], trading_test(figures[0], other, permutations=300)
    monkeypatch.setattr("pipelines.evaluation.sentence_statistics._CELLS", 30 * 7)
    assert (estimates(figures, resamples=300)[0], trading_test(figures[0], other, permutations=300)) == whole
