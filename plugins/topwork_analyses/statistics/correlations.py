"""Correlations of two lists of numbers, with bootstrap intervals, and permutation nulls.

Entry points: `correlation` and `permutation_p`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy
from numpy.typing import ArrayLike, NDArray

from topwork import Json, UsageError, unknown
from topwork_analyses.statistics.bootstrap import expanded_quantile

Kind = Literal["pearson", "spearman", "kendall"]
KINDS: tuple[Kind, ...] = ("pearson", "spearman", "kendall")


def coefficient(first: ArrayLike, second: ArrayLike, kind: Kind = "spearman") -> float:
    """Return a correlation coefficient; NaN where one side is constant.

    Args:
        first: numbers.
        second: as many numbers.
        kind: "pearson", "spearman" (ties get their mean rank) or "kendall" (tau-b).

    Raises:
        UsageError: the lists have different lengths or fewer than two numbers, or the kind is not known.
    """
    from scipy import stats

    if kind not in KINDS:
        raise unknown("correlation", kind, KINDS)
    left, right = numpy.asarray(first, dtype=float), numpy.asarray(second, dtype=float)
    if left.shape != right.shape or left.ndim != 1 or len(left) < 2:
        raise UsageError(f"a correlation of {left.size} with {right.size} numbers", hint="give two lists of one length")
    function = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(function(left, right).statistic)


def correlation(
    first: ArrayLike,
    second: ArrayLike,
    kind: Kind = "spearman",
    *,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Json]:
    """Return a coefficient, its percentile interval over resampled pairs, and its permutation p-value.

    Args:
        first: numbers.
        second: as many numbers.
        kind: "pearson", "spearman" or "kendall".
        draws: resamples, and permutations.
        confidence: of the interval.
        seed: of both.

    Returns:
        "kind", "estimate", "low", "high", "p", "pairs"; None in place of numbers where one side is constant.
    """
    from scipy import stats

    left, right = numpy.asarray(first, dtype=float), numpy.asarray(second, dtype=float)
    estimate = coefficient(left, right, kind)
    if not numpy.isfinite(estimate):
        return {"kind": kind, "estimate": None, "low": None, "high": None, "p": None, "pairs": len(left)}
    random = numpy.random.default_rng(seed)
    chosen = random.integers(len(left), size=(draws, len(left)))
    drawn = _by_line(left[chosen], right[chosen], kind)
    drawn = drawn[numpy.isfinite(drawn)]
    quantile = expanded_quantile(confidence, len(left))
    levels = stats.norm.cdf([-quantile, quantile])
    low, high = numpy.quantile(drawn, levels) if len(drawn) else (estimate,) * 2
    orders = random.permuted(numpy.tile(numpy.arange(len(left)), (draws, 1)), axis=1)
    null = _by_line(left[orders], numpy.broadcast_to(right, orders.shape), kind)
    p = (1 + int((numpy.abs(null) >= abs(estimate) - 1e-12).sum())) / (draws + 1)
    return {"kind": kind, "estimate": estimate, "low": float(low), "high": float(high), "p": p, "pairs": len(left)}


def permutation_p(
    statistic: Callable[[NDArray[numpy.int64]], float],
    count: int,
    *,
    draws: int = 1000,
    seed: int = 0,
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> float:
    """Return the share of random orders that give as large a statistic as the given order (Phipson and Smyth 2010).

    The order as it is counts as one of them, so that the p-value is never 0.

    Args:
        statistic: an order of `count` things -> number.
        count: how many things are put into order.
        draws: random orders.
        seed: of the orders.
        alternative: "two-sided" compares absolute values.
    """
    drawn = permutation_null(statistic, count, draws=draws, seed=seed)
    observed = statistic(numpy.arange(count))
    size = numpy.abs if alternative == "two-sided" else numpy.asarray
    # What differs by rounding is equal.
    reached = int((size(drawn) >= size(observed) - 1e-12).sum())
    return (reached + 1) / (draws + 1)


def permutation_null(
    statistic: Callable[[NDArray[numpy.int64]], float], count: int, *, draws: int = 1000, seed: int = 0
) -> NDArray[numpy.float64]:
    """Return the statistics of random orders: what it is when nothing belongs together. NaN counts as 0.

    Raises:
        UsageError: no order is drawn.
    """
    if draws < 1:
        raise UsageError(f"{draws} random orders", hint="give 100 or more")
    random = numpy.random.default_rng(seed)
    drawn: list[Any] = [statistic(random.permutation(count)) for _ in range(draws)]
    return numpy.nan_to_num(numpy.array(drawn, dtype=float))


def _by_line(first: NDArray[Any], second: NDArray[Any], kind: Kind) -> NDArray[numpy.float64]:
    """Coefficients of each line of two tables; NaN where a line holds one number only, again and again."""
    from scipy import stats

    if kind == "kendall":
        return numpy.array([coefficient(left, right, kind) for left, right in zip(first, second)])
    if kind == "spearman":
        first, second = (stats.rankdata(side, axis=1) for side in (first, second))
    first, second = (side - side.mean(1, keepdims=True) for side in (first, second))
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(1) / numpy.sqrt((first**2).sum(1) * (second**2).sum(1))
