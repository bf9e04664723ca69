"""Choosing on some queries and scoring on others, and the rank of a window: against sklearn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import percentileofscore, rankdata
from sklearn.base import BaseEstimator
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from pipelines.errors import TerminalError
from pipelines.evaluation.statistics import Estimate
from pipelines.evaluation.sweep_choice import Folds, choose, corrected, differences, nested, standing, values_of
from pipelines.evaluation.sweep_records import Difference, Measured
from tests.pipelines.sweeps import measured


class BestColumn(BaseEstimator):
    """What nesting amounts to, for sklearn: fitting picks the column of greatest mean, predicting reads it."""

    def fit(self, table, _target=None):
        self.column_ = int(np.argmax(table.mean(axis=0)))
        return self

    def predict(self, table):
        return table[:, self.column_]


def random_table(queries: int = 43, columns: int = 6, seed: int = 0):
    return np.random.default_rng(seed).random((queries, columns))


def with_values(name: str, values) -> Measured:
    per_query = {f"q{place:03}": {"ndcg@10": float(value)} for place, value in enumerate(values)}
    one = measured(name, 0.5)
    return Measured(**{**{key: getattr(one, key) for key in Measured.__slots__}, "per_query": per_query})


@pytest.mark.parametrize(("count", "repeats"), [(2, 1), (5, 3), (7, 2)])
def test_choose_equals_cross_validated_selection_by_sklearn(count: int, repeats: int):
    table, folds = random_table(), Folds(count, repeats, seed=3)
    by_sklearn = [
        cross_val_predict(BestColumn(), table, np.zeros(len(table)), cv=PredefinedSplit(parting))
        for parting in folds.parts(len(table))
    ]
    found = choose(table, folds)
    assert found.values == pytest.approx(np.mean(by_sklearn, axis=0), abs=1e-12)
    assert found.chosen.total() == count * repeats


@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 60), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_folds_part_all_queries_evenly(count: int, repeats: int, more: int, seed: int):
    queries = 2 * count + more
    parts = Folds(count, repeats, seed).parts(queries)
    for parting in parts:
        sizes = np.bincount(parting, minlength=count)
        assert len(sizes) == count
        assert sizes.max() - sizes.min() <= 1


def test_choice_for_a_fold_does_not_see_its_own_queries():
    """The figure would flatter if a query helped to choose what it is scored by."""
    table, folds = random_table(40, 5), Folds(4, 1)
    [parting] = folds.parts(40)
    inside = parting == 2
    spoilt = table.copy()
    spoilt[inside, 3] += 1000.0
    found = choose(spoilt, folds).values
    column = int(np.argmax(table[~inside].mean(axis=0)))
    assert found[inside] == pytest.approx(spoilt[inside, column])


def test_nested_choice_among_noise_is_worth_nothing_where_hindsight_says_it_is():
    table = np.random.default_rng(1).normal(0.5, 0.2, (100, 60))
    found = nested(table, [str(column) for column in range(60)], Folds(5, 20), main=0)
    error = 0.2 / 10
    assert table.mean(axis=0).max() > 0.5 + 2 * error
    assert abs(found.estimate.mean - 0.5) < 1.5 * error
    assert found.optimism > error
    assert found.difference.low < 0 < found.difference.high


def test_nested_choice_finds_what_is_better_for_most_queries():
    table = random_table(60, 3)
    table[:, 2] = table[:, 0] + 0.1
    table[:, 1] = table[:, 0] - 0.1
    found = nested(table, ["main", "worse", "better"], Folds(5, 4), main=0)
    assert found.chosen == {"better": 20}
    assert found.difference.mean == pytest.approx(0.1)
    assert found.optimism == pytest.approx(0.0)


def test_choice_among_equals_is_main():
    """Where values change nothing, as a filter that vectors do not feel, nobody is told to change them."""
    table = np.repeat(random_table(20, 1), 4, axis=1)
    assert choose(table, Folds(5, 2), preferred=2).chosen == {2: 10}


def test_nested_choice_of_main_throughout_differs_from_it_by_nothing():
    """Averages over three partings leave a rounding, which a test of signs would take for a difference."""
    table = random_table(30, 1) / 3
    table = np.concatenate([table, table - 0.1], axis=1)
    found = nested(table, ["main", "worse"], Folds(5, 3), main=0)
    assert found.difference == Difference(0.0, 0.0, 0.0, 1.0)
    assert found.optimism == 0.0
    windows = {str(place): with_values(f"window={place}", table[:, place]) for place in range(2)}
    place = standing(windows, "0", None, "ndcg@10", Folds(5, 3))
    assert place is not None
    assert place.to_nested == place.to_best == Difference(0.0, 0.0, 0.0, 1.0)


def test_values_do_not_depend_on_the_order_of_queries():
    one = with_values("main", [0.1, 0.2, 0.3])
    other = Measured(
        **{**{key: getattr(one, key) for key in Measured.__slots__}, "per_query": dict(reversed(one.per_query.items()))}
    )
    assert np.array_equal(values_of([one], "ndcg@10"), values_of([other], "ndcg@10"))


def test_corrected_p_values_leave_main_out_of_the_family():
    apart = differences(np.stack([np.zeros(30), random_table(30, 1)[:, 0] - 0.5, np.full(30, 0.1)], axis=1))
    p_values = [one.p_value for one in apart]
    assert corrected(apart, 0) == [1.0, max(p_values[1], 2 * p_values[2]), 2 * p_values[2]]


def test_standing_equals_ranks_by_scipy():
    table = random_table(80, 7, seed=5) + np.linspace(0, 0.05, 7)
    windows = {str(place): with_values(f"window={place}", table[:, place]) for place in range(7)}
    none = with_values("window=none", table[:, 0] - 0.2)
    means = table.mean(axis=0)
    for place in range(7):
        found = standing(windows, str(place), none, "ndcg@10", Folds(5, 2))
        assert found is not None
        assert found.rank == rankdata(-means)[place]
        assert found.percentile == pytest.approx(percentileofscore(np.delete(means, place), means[place], kind="mean"))
        assert found.rank_low <= found.rank <= found.rank_high
        assert found.best == str(int(means.argmax()))
        assert found.to_best.mean == pytest.approx(means[place] - means.max())
        assert found.to_average.mean == pytest.approx(means[place] - means.mean())
        assert found.to_none is not None
        assert found.to_none.mean == pytest.approx(means[place] - means[0] + 0.2)


def test_standing_rank_interval_is_that_of_drawing_queries_anew():
    table = random_table(50, 60, seed=2)
    windows = {str(place): with_values(f"window={place}", table[:, place]) for place in range(60)}
    place = int(np.argsort(table.mean(axis=0))[30])
    found = standing(windows, str(place), None, "ndcg@10", Folds(5, 1))
    generator = np.random.default_rng(9)
    ranks = [rankdata(-table[generator.integers(0, 50, 50)].mean(axis=0))[place] for _ in range(4000)]
    low, high = np.quantile(ranks, [0.025, 0.975])
    narrower = np.quantile(ranks, [0.05, 0.95])
    assert min(narrower[0] - low, high - narrower[1]) >= 2, "a 90 % interval would show"
    assert found is not None
    assert abs(found.rank_low - low) <= 1
    assert abs(found.rank_high - high) <= 1
    assert found.to_none is None


def test_standing_of_equal_windows_is_the_middle():
    values = random_table(30, 1)[:, 0]
    windows = {str(place): with_values(f"window={place}", values) for place in range(4)}
    found = standing(windows, "1", None, "ndcg@10", Folds(5, 1))
    assert found is not None
    assert (found.rank, found.percentile, found.best) == (1, 50.0, "1")
    assert found.to_best.mean == 0.0


def test_standing_of_a_single_window_is_none():
    assert standing({"0": with_values("main", [0.1, 0.2])}, "0", None, "ndcg@10", Folds(2, 1)) is None


@pytest.mark.parametrize(
    ("queries", "count", "words"),
    [
        (9, 5, r"9 queries are too few .* in 5 folds, which takes at least 10; give fewer --folds, at most 4, or more"),
        (3, 2, r"3 queries are too few .* takes at least 4; give more queries"),
    ],
)
def test_too_few_queries_to_nest_are_refused(queries: int, count: int, words: str):
    with pytest.raises(TerminalError, match=words):
        Folds(count).check(queries)
    Folds(count).check(2 * count)


def test_estimate_of_a_nested_choice_is_of_its_values():
    table = random_table(40, 3)
    found = nested(table, ["a", "b", "c"], Folds(4, 3), main=1)
    values = choose(table, Folds(4, 3), 1).values
    assert isinstance(found.estimate, Estimate)
    assert found.estimate.mean == pytest.approx(values.mean())
    assert found.difference.mean == pytest.approx((values - table[:, 1]).mean())
