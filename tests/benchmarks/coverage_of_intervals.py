"""Simulated coverage of every kind of interval that analyses print, and error rates of their p-values.

    python tests/benchmarks/coverage_of_intervals.py [--sets 1000] [--rows 100]

Rows are drawn from a distribution whose true value is known, many times; a line says how many intervals of 95 % hold
it (93 to 97 is the goal), at a size of rows as stages use, for data as they see it: paired differences of a loss (a
normal and a skewed distribution), of an accuracy (-1, 0, 1), accuracies of words over sentences, rank correlations over
attention heads, F1 of a corpus. Tests are judged by how often they reject at .05 what is true: Holm's correction in
whole families, permutations where nothing belongs together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from scipy import stats

from topwork_analyses.attention_patterns.statistics_of_heads import Means
from topwork_analyses.statistics.bootstrap import (
    difference_intervals,
    enough_draws,
    mean_intervals,
    ratio_intervals,
    statistic_interval,
)
from topwork_analyses.statistics.corrections import holm
from topwork_analyses.statistics.correlations import correlation, permutation_p

Random = numpy.random.Generator
#: true value, and whether each interval holds it
Held = Iterator[bool]
DRAWS = 1000
#: sets whose intervals are made of the same resamples: few, for what these have in common is an error of the share
BLOCK = 10


def normal(random: Random, rows: int, sets: int) -> NDArray[Any]:
    """Differences of a loss: normal, with mean .3 of their spread."""
    return random.normal(0.3, 1.0, size=(rows, sets))


def skewed(random: Random, rows: int, sets: int) -> NDArray[Any]:
    """Differences of a loss with a long tail: exponential less .7, with mean .3."""
    return random.exponential(1.0, size=(rows, sets)) - 0.7


def accuracy(random: Random, rows: int, sets: int) -> NDArray[Any]:
    """Differences of an accuracy: 25 of 100 rows get right, 15 get wrong."""
    return random.choice([1.0, 0.0, -1.0], p=[0.25, 0.6, 0.15], size=(rows, sets))


def of_means(make: Callable[..., NDArray[Any]], true: float, method: Any) -> Callable[[Random, int, int], Held]:
    """Return intervals of means of columns."""

    def held(random: Random, rows: int, sets: int) -> Held:
        for start in range(0, sets, BLOCK):
            values = make(random, rows, min(BLOCK, sets - start))
            for interval in mean_intervals(values, method=method, draws=DRAWS, seed=start):
                yield interval.low <= true <= interval.high

    return held


def of_differences(random: Random, rows: int, sets: int) -> Held:
    """Mean of a slice less that of all other rows, three times as many."""
    for start in range(0, sets, BLOCK):
        first, second = normal(random, rows // 4, BLOCK), normal(random, rows - rows // 4, BLOCK)
        for interval in difference_intervals(first, second, draws=DRAWS, seed=start):
            yield interval.low <= 0 <= interval.high


def of_ratios(random: Random, rows: int, sets: int) -> Held:
    """Words right of all words over sentences of 5 to 30 words, whose difficulty differs (mean accuracy .6)."""
    for seed in range(sets):
        words = random.integers(5, 31, size=rows)
        right = random.binomial(words, random.beta(6, 4, size=rows))
        (interval,) = ratio_intervals(right[:, None], words, draws=DRAWS, seed=seed)
        yield interval.low <= 0.6 <= interval.high


def of_corpus(method: Any) -> Callable[[Random, int, int], Held]:
    """F1 over all rows, of counts of each: no mean over rows."""

    def held(random: Random, rows: int, sets: int) -> Held:
        for seed in range(sets // 4):
            right, wrong, missed = (
                random.poisson(3, size=rows),
                random.poisson(1, size=rows),
                random.poisson(2, size=rows),
            )

            def score(chosen: NDArray[Any], right: Any = right, wrong: Any = wrong, missed: Any = missed) -> float:
                hits = right[chosen].sum()
                return float(2 * hits / (2 * hits + wrong[chosen].sum() + missed[chosen].sum()))

            interval = statistic_interval(score, rows, method=method, draws=200, seed=seed)
            yield interval.low <= 2 * 3 / (2 * 3 + 1 + 2) <= interval.high

    return held


def of_correlations(kind: Any) -> Callable[[Random, int, int], Held]:
    """Correlation of two numbers of attention heads, normal with Pearson's r = .6; Spearman's is 6 / pi asin(r / 2)."""
    true = 0.6 if kind == "pearson" else 6 / numpy.pi * numpy.arcsin(0.3)

    def held(random: Random, rows: int, sets: int) -> Held:
        for seed in range(sets // (1 if kind == "pearson" else 2)):
            first, noise = random.normal(size=(2, rows))
            interval = correlation(first, 0.6 * first + 0.8 * noise, kind, draws=400, seed=seed)
            yield interval["low"] <= true <= interval["high"]

    return held


def of_half_widths(random: Random, rows: int, sets: int) -> Held:
    """Means of attention statistics, whose intervals are Student's, kept as sums."""
    means = Means()
    for row in normal(random, rows, sets):
        means.add("layer", {"entropy": torch.from_numpy(row)})
    for mean, half in zip(means.mean("layer", "entropy"), means.half_width("layer", "entropy"), strict=True):
        yield mean - half <= 0.3 <= mean + half


def rejected_families(random: Random, rows: int, sets: int) -> Held:
    """Families of 20 attention heads without any effect: whether Holm's correction finds one at .05."""
    for seed in range(sets // 4):
        draws = enough_draws(rows, 20, 0.95)
        intervals = mean_intervals(random.normal(size=(rows, 20)), draws=draws, seed=seed)
        yield min(holm([interval.p for interval in intervals])) <= 0.05


def rejected_orders(random: Random, rows: int, sets: int) -> Held:
    """Numbers that have nothing to do with each other: whether permutations find that they do at .05."""
    for seed in range(sets // 2):
        first, second = random.normal(size=(2, rows))
        yield permutation_p(lambda order, a=first, b=second: float(a[order] @ b), rows, draws=199, seed=seed) <= 0.05


INTERVALS: dict[str, Callable[[Random, int, int], Held]] = {
    "mean of paired differences, BCa, normal": of_means(normal, 0.3, "BCa"),
    "mean of paired differences, BCa, skewed": of_means(skewed, 0.3, "BCa"),
    "mean of paired differences, BCa, accuracy": of_means(accuracy, 0.1, "BCa"),
    "mean of paired differences, percentile, normal": of_means(normal, 0.3, "percentile"),
    "mean of paired differences, percentile, skewed": of_means(skewed, 0.3, "percentile"),
    "difference of two sets of rows (slices)": of_differences,
    "ratio of sums (words over sentences)": of_ratios,
    "statistic of a corpus (F1), BCa": of_corpus("BCa"),
    "statistic of a corpus (F1), percentile": of_corpus("percentile"),
    "correlation, Pearson": of_correlations("pearson"),
    "correlation, Spearman": of_correlations("spearman"),
    "mean of attention statistics, Student's": of_half_widths,
}
ERRORS: dict[str, Callable[[Random, int, int], Held]] = {
    "a family of 20 attention heads, Holm": rejected_families,
    "permutations of a null": rejected_orders,
}


def main() -> None:
    """Print a line for each kind of interval, and for each test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated sets of each kind; a quarter where slow")
    parser.add_argument("--rows", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    options = parser.parse_args()
    print(f"{'intervals of 95 %':50}" + "".join(f"{rows:>7} rows" for rows in options.rows) + "   (share that holds)")
    for kinds, title in ((INTERVALS, ""), (ERRORS, f"{'tests at .05':50} (share that rejects what is true)")):
        print(title) if title else None
        for name, kind in ((name, kind) for name, kind in kinds.items() if options.only in name):
            shares = []
            for rows in options.rows:
                held = list(kind(numpy.random.default_rng(rows), rows, options.sets))
                error = stats.sem(held)
                shares.append(f"{100 * numpy.mean(held):6.1f}±{100 * error:.1f}")
            print(f"{name:50}" + " ".join(f"{share:>11}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
