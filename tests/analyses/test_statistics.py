"""Intervals, corrections and nulls against independent computations, and against what they promise: coverage."""

from __future__ import annotations

import itertools

import numpy
import pytest
from scipy import stats

from topwork import TopworkError, UsageError
from topwork_analyses.statistics.bootstrap import (
    difference_intervals,
    enough_draws,
    mean_intervals,
    p_value,
    statistic_interval,
    too_few,
)
from topwork_analyses.statistics.corrections import holm
from topwork_analyses.statistics.correlations import coefficient, correlation, permutation_null, permutation_p


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_intervals_hold_the_true_mean_in_93_to_97_of_100_sets(method: str) -> None:
    """Five times 200 simulated sets of 100 paired differences: the share of 200 sets alone has an error of 1.5 %."""
    covered = []
    for repetition in range(5):
        sets = numpy.random.default_rng(repetition).normal(0.3, 1.0, size=(100, 200))
        intervals = mean_intervals(sets, method=method, draws=999, seed=repetition)
        covered += [interval.low <= 0.3 <= interval.high for interval in intervals]
    assert 0.93 <= sum(covered) / len(covered) <= 0.97


def test_bca_is_better_than_percentiles_where_differences_are_skewed() -> None:
    random = numpy.random.default_rng(5)
    sets = random.exponential(1.0, size=(25, 400))
    missed = {}
    for method in ("BCa", "percentile"):
        intervals = mean_intervals(sets, method=method, draws=999)
        missed[method] = sum(interval.high < 1.0 for interval in intervals)
    assert missed["BCa"] < missed["percentile"]


def test_intervals_are_scipys_and_the_same_for_the_same_seed() -> None:
    values = numpy.random.default_rng(0).normal(size=(40, 3))
    intervals = mean_intervals(values, draws=500, seed=7)
    assert intervals == mean_intervals(values, draws=500, seed=7)
    assert intervals != mean_intervals(values, draws=500, seed=8)
    for column, interval in zip(values.T, intervals, strict=True):
        wanted = stats.bootstrap((column,), numpy.mean, n_resamples=4000, method="BCa", rng=1).confidence_interval
        assert interval.low == pytest.approx(wanted.low, abs=0.05)
        assert interval.high == pytest.approx(wanted.high, abs=0.05)
        assert interval.estimate == pytest.approx(column.mean())


def test_columns_are_resampled_by_the_same_rows() -> None:
    values = numpy.random.default_rng(0).normal(size=(30, 1))
    first, second = mean_intervals(numpy.hstack([values, 2 * values]), draws=200, method="percentile")
    assert (second.low, second.high) == pytest.approx((2 * first.low, 2 * first.high))


def test_rows_that_are_alike_have_an_interval_without_width() -> None:
    dead, constant = mean_intervals(numpy.tile([[0.0, 2.0]], (20, 1)))
    assert (dead.low, dead.high, dead.p) == (0.0, 0.0, 1.0)
    assert (constant.low, constant.high) == (2.0, 2.0)


def test_a_statistic_of_a_corpus_is_resampled_by_rows() -> None:
    values = numpy.random.default_rng(2).normal(1.0, 1.0, size=60)
    whole = statistic_interval(lambda rows: float(values[rows].mean()), 60, draws=800, method="percentile")
    (mean,) = mean_intervals(values, draws=800, method="percentile")
    assert whole.estimate == pytest.approx(mean.estimate)
    assert (whole.low, whole.high) == pytest.approx((mean.low, mean.high), abs=0.06)
    ratio = statistic_interval(lambda rows: float(values[rows].std()), 60, draws=200)
    assert ratio.low < values.std() < ratio.high


def test_p_values_count_both_sides_and_are_never_zero() -> None:
    assert p_value([1.0] * 99) == pytest.approx(0.02)
    assert p_value([0.0] * 99) == 1.0
    assert p_value([-1.0] * 50 + [1.0] * 49) == 1.0


@pytest.mark.parametrize(
    ("values", "options", "cause"),
    [
        ([1.0], {}, "over 1 rows"),
        ([1.0, float("nan")], {}, "no finite number"),
        ([1.0, 2.0], {"confidence": 1.0}, "confidence of 1.0"),
        ([1.0, 2.0], {"draws": 0}, "0 resamples"),
        ([1.0, 2.0], {"method": "basic"}, "basic"),
    ],
)
def test_wrong_values_and_options_are_refused(values: list[float], options: dict, cause: str) -> None:
    with pytest.raises(TopworkError, match=cause):
        mean_intervals(values, **options)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """The closure of Bonferroni tests, by enumeration of all subsets, gives the same p-values."""
    random = numpy.random.default_rng(0)
    for _ in range(20):
        p_values = random.uniform(0, 0.3, size=4).round(2).tolist()
        for index, adjusted in enumerate(holm(p_values)):
            subsets = [
                chosen for size in range(1, 5) for chosen in itertools.combinations(range(4), size) if index in chosen
            ]
            closed = max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in subsets)
            assert adjusted == pytest.approx(closed)
    assert holm([]) == []
    with pytest.raises(UsageError, match="no p-value"):
        holm([0.5, 1.5])


@pytest.mark.parametrize("rows", [12, 30, 300])
def test_the_clearest_effect_is_significant_among_all_heads_or_it_is_said_why_not(rows: int) -> None:
    """By default resamples are as many as a correction takes; 1,000 of them say nothing among 144 attention heads."""
    effects = numpy.random.default_rng(0).normal(3.0, 0.1, size=(rows, 1))
    for draws in (enough_draws(rows, 144, 0.95), 1000):
        (interval,) = mean_intervals(effects, draws=draws)
        is_significant = 144 * interval.p <= 0.05
        assert is_significant == (not too_few(rows, draws, 144, 0.05))
    assert is_significant is False
    assert bool(too_few(rows, enough_draws(rows, 144, 0.95), 144, 0.05)) == (rows == 12)


def test_holm_finds_an_effect_in_few_rows_as_often_as_it_should() -> None:
    """200 families of 20 attention heads without an effect, on 30 rows: plain percentiles found one in 9 of 100."""
    random, draws = numpy.random.default_rng(0), enough_draws(30, 20, 0.95)
    found = 0
    for seed in range(200):
        intervals = mean_intervals(random.normal(size=(30, 20)), draws=draws, seed=seed)
        found += min(holm([interval.p for interval in intervals])) <= 0.05
    assert found <= 17


def test_holm_keeps_the_family_wise_error() -> None:
    """400 families of 20 true nulls at level 0.1: some rejection in at most a tenth of them, with its spread."""
    families = numpy.random.default_rng(1).uniform(size=(400, 20))
    wrong = sum(min(holm(family.tolist())) < 0.1 for family in families) / 400
    assert 0.05 < wrong < 0.145


@pytest.mark.parametrize("kind", ["pearson", "spearman", "kendall"])
def test_correlations_have_intervals_and_nulls(kind: str) -> None:
    random = numpy.random.default_rng(0)
    first = random.normal(size=50)
    related = correlation(first, first + 0.5 * random.normal(size=50), kind, draws=300)
    assert related["low"] < related["estimate"] < related["high"]
    assert related["p"] == pytest.approx(1 / 301)
    unrelated = correlation(first, random.normal(size=50), kind, draws=300)
    assert unrelated["low"] < 0 < unrelated["high"]
    assert unrelated["p"] > 0.02


def test_spearman_gives_ties_their_mean_rank() -> None:
    first, second = [1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 2.0]
    ranks = numpy.corrcoef([1.5, 1.5, 3, 4], [1, 3, 3, 3])[0, 1]
    assert coefficient(first, second) == pytest.approx(ranks)
    assert correlation([1.0, 1.0], [1.0, 2.0])["estimate"] is None


def test_permutation_p_values_are_uniform_where_nothing_belongs_together() -> None:
    random = numpy.random.default_rng(0)
    p_values = []
    for _ in range(150):
        first, second = random.normal(size=(2, 12))
        p_values.append(permutation_p(lambda order, a=first, b=second: float(a[order] @ b), 12, draws=99))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert len(permutation_null(lambda order: float(order[0]), 5, draws=7)) == 7


@pytest.mark.parametrize(("few", "many"), [(4, 26), (7, 23)])
def test_a_slice_of_few_rows_has_an_interval_that_is_wide_enough(few: int, many: int) -> None:
    """Percentiles alone held the difference in 91 of 100 sets of 7 and 23 rows."""
    random = numpy.random.default_rng(0)
    held = []
    for seed in range(30):
        sides = random.normal(size=(few, 50)), random.normal(size=(many, 50))
        held += [interval.low <= 0 <= interval.high for interval in difference_intervals(*sides, draws=500, seed=seed)]
    assert 0.92 <= numpy.mean(held) <= 0.98
    (constant,) = difference_intervals(numpy.ones((few, 1)), numpy.zeros((many, 1)), draws=100)
    assert (constant.low, constant.estimate, constant.high) == (1.0, 1.0, 1.0)
