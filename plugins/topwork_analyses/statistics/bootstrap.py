"""Bootstrap over rows: intervals and p-values of means of paired differences, and of any statistic of rows.

Entry points: `mean_intervals` for numbers of rows (all columns at once), `statistic_interval` for a function of the
indices of rows, such as a metric over a corpus. Resampling is `scipy.stats.bootstrap`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
from numpy.typing import ArrayLike, NDArray

from topwork import Json, UsageError, unknown

Method = Literal["BCa", "percentile"]
METHODS: tuple[Method, ...] = ("BCa", "percentile")
#: numbers that one block of resamples may hold
BLOCK = 2**22


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Args:
        estimate: the statistic of the rows as they are.
        low: lower end.
        high: upper end.
        p: two-sided p-value of "the true value is 0", by the share of resamples on the other side of 0.
    """

    estimate: float
    low: float
    high: float
    p: float

    def json(self) -> dict[str, Json]:
        """Return the fields as JSON."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "p": self.p}


def mean_intervals(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    method: Method = "BCa",
    draws: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    """Return the interval of the mean of each column; every column is resampled by the same rows.

    BCa: bias-corrected and accelerated (Efron 1987). Percentile: the quantiles of the resampled means (Efron 1979).
    The p-value is twice the smaller share of resampled means on one side of 0, both counts raised by one (Davison and
    Hinkley 1997, section 4.2).

    Args:
        values: [rows] or [rows, columns], of paired comparisons the differences.
        confidence: share of intervals that hold the true mean.
        method: "BCa" or "percentile".
        draws: resamples.
        seed: of the resamples.

    Raises:
        UsageError: fewer than two rows, a number that is not finite, or an option out of range.

    Example:
        >>> mean_intervals([1.0, 1.0, 1.0])[0]
        Interval(estimate=1.0, low=1.0, high=1.0, p=0.0009995002498750624)
    """
    table = numpy.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    _check(len(table), confidence, method, draws)
    if not numpy.isfinite(table).all():
        row = int(numpy.argwhere(~numpy.isfinite(table))[0][0])
        raise UsageError("a value of a row is no finite number", place=f"row {row}", hint="leave the row out")
    intervals = []
    step = max(1, BLOCK // len(table))
    for start in range(0, table.shape[1], 64):
        columns = table[:, start : start + 64].T
        result = _bootstrap(
            columns, _mean, confidence, method, draws, seed, vectorized=True, batch=max(1, step // len(columns))
        )
        for column, low, high, resampled in zip(
            columns, result.confidence_interval.low, result.confidence_interval.high, result.bootstrap_distribution
        ):
            intervals.append(_interval(float(column.mean()), float(low), float(high), resampled))
    return intervals


def difference_intervals(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> list[Interval]:
    """Return percentile intervals of mean(first) - mean(second) of each column, for rows that are not paired.

    Slices have few rows, for which percentiles are too narrow: resampled differences are spread out by what a variance
    over n lacks to one over n - 1, and by Student's quantile over the normal one, with Welch's degrees of freedom
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 4.3).

    Args:
        first: [rows, columns].
        second: [other rows, columns].
        confidence: share of intervals that hold the true difference.
        draws: resamples.
        seed: of the resamples.

    Raises:
        UsageError: fewer than two rows on a side, or an option out of range.
    """
    sides = [numpy.asarray(side, dtype=float) for side in (first, second)]
    random = numpy.random.default_rng(seed)
    means = []
    for side in sides:
        _check(len(side), confidence, "percentile", draws)
        # How often each row is drawn: one product gives the means of all columns.
        counts = random.multinomial(len(side), numpy.full(len(side), 1 / len(side)), size=draws)
        means.append((counts @ side / len(side) - side.mean(0)) * (len(side) / (len(side) - 1)) ** 0.5)
    estimates = sides[0].mean(0) - sides[1].mean(0)
    drawn = estimates + (means[0] - means[1]) * _student_factor(sides, confidence)
    ends = numpy.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [
        _interval(float(estimate), float(low), float(high), column)
        for estimate, low, high, column in zip(estimates, *ends, drawn.T)
    ]


def _student_factor(sides: Sequence[NDArray[numpy.float64]], confidence: float) -> NDArray[numpy.float64]:
    """Return Student's quantile over the normal one, with Welch's degrees of freedom of each column."""
    from scipy import stats

    errors = [side.var(0, ddof=1) / len(side) for side in sides]
    parts = sum(error**2 / (len(side) - 1) for error, side in zip(errors, sides))
    freedom = numpy.divide(sum(errors) ** 2, parts, out=numpy.full_like(errors[0], numpy.inf), where=parts > 0)
    level = (1 + confidence) / 2
    return numpy.asarray(stats.t.ppf(level, freedom) / stats.norm.ppf(level))


def ratio_intervals(
    numerators: ArrayLike, denominators: ArrayLike, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> list[Interval]:
    """Return percentile intervals of sum(numerators) / sum(denominators), such as accuracies of words over sentences.

    Args:
        numerators: [rows, columns].
        denominators: [rows], above 0 in some row.
        confidence: share of intervals that hold the true ratio.
        draws: resamples of rows.
        seed: of the resamples.

    Raises:
        UsageError: fewer than two rows, or an option out of range.
    """
    tops, bottoms = numpy.asarray(numerators, dtype=float), numpy.asarray(denominators, dtype=float)
    _check(len(tops), confidence, "percentile", draws)
    random = numpy.random.default_rng(seed)
    counts = random.multinomial(len(tops), numpy.full(len(tops), 1 / len(tops)), size=draws)
    below = counts @ bottoms
    drawn = (counts @ tops)[below > 0] / below[below > 0, None]
    ends = numpy.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    estimates = tops.sum(0) / bottoms.sum()
    return [
        _interval(float(estimate), float(low), float(high), column)
        for estimate, low, high, column in zip(estimates, *ends, drawn.T)
    ]


def statistic_interval(
    statistic: Callable[[NDArray[numpy.int64]], float],
    rows: int,
    *,
    confidence: float = 0.95,
    method: Method = "BCa",
    draws: int = 200,
    seed: int = 0,
) -> Interval:
    """Return the interval of any statistic of rows, which is computed anew for each resample.

    Args:
        statistic: indices of rows, some of them several times -> number.
        rows: how many rows there are.
        confidence: share of intervals that hold the true value.
        method: "BCa" or "percentile".
        draws: resamples; BCa takes one computation for each row besides.
        seed: of the resamples.

    Raises:
        UsageError: fewer than two rows, the statistic is not finite, or an option is out of range.
    """
    _check(rows, confidence, method, draws)
    indices = numpy.arange(rows)
    estimate = float(statistic(indices))
    if not numpy.isfinite(estimate):
        raise UsageError("the statistic of all rows is no finite number", hint="give more rows")

    def safe(resampled: Any) -> float:
        # A resample may lack what the statistic needs (a class, a box): it says nothing about the spread.
        value = float(statistic(numpy.asarray(resampled)))
        return value if numpy.isfinite(value) else estimate

    result = _bootstrap(indices, safe, confidence, method, draws, seed, vectorized=False, batch=None)
    low, high = result.confidence_interval
    return _interval(estimate, float(low), float(high), result.bootstrap_distribution)


def p_value(resampled: ArrayLike) -> float:
    """Return the two-sided p-value of "the true value is 0" of resampled statistics; see `mean_intervals`."""
    drawn = numpy.asarray(resampled)
    less, more = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return min(1.0, 2 * (min(less, more) + 1) / (len(drawn) + 1))


def _mean(sample: NDArray[numpy.float64], axis: int = -1) -> Any:
    return sample.mean(axis=axis)


def _bootstrap(
    data: Any, statistic: Any, confidence: float, method: Method, draws: int, seed: int, **options: Any
) -> Any:
    from scipy import stats

    with warnings.catch_warnings():
        # BCa of rows that are all alike divides by 0: `_interval` answers for them.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        return stats.bootstrap(
            (data,),
            statistic,
            n_resamples=draws,
            confidence_level=confidence,
            method=method,
            rng=numpy.random.default_rng(seed),
            axis=-1,
            **options,
        )


def _interval(estimate: float, low: float, high: float, resampled: ArrayLike) -> Interval:
    drawn = numpy.asarray(resampled)
    if not (numpy.isfinite(low) and numpy.isfinite(high)):
        # All resamples lie on one side of the estimate, or all are alike: BCa's corrections are undefined.
        low, high = float(drawn.min()), float(drawn.max())
    return Interval(estimate, low, high, p_value(drawn))


def _check(rows: int, confidence: float, method: str, draws: int) -> None:
    if method not in METHODS:
        raise unknown("bootstrap method", method, METHODS)
    if rows < 2:
        raise UsageError(f"an interval over {rows} rows", hint="give two rows or more")
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence}", hint="give a share between 0 and 1, such as 0.95")
    if draws < 1:
        raise UsageError(f"{draws} resamples", hint="give 1000 or more")
