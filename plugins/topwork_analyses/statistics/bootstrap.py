"""Bootstrap over rows: intervals and p-values of means of paired differences, and of any statistic of rows.

Entry points: `mean_intervals` for numbers of rows (all columns at once), `ratio_intervals`, `difference_intervals`,
`statistic_interval` for a function of the indices of rows, such as a metric over a corpus; `enough_draws` for the
resamples that a correction takes. Resamples of few rows vary too little: each quantile is taken further out, as
Student's quantile is further out than the normal one and a variance over n - 1 larger than one over n (Hesterberg 2015,
"What teachers should know about the bootstrap", section 4.3), and p-values are those of that rule.
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
#: numbers that one block of resamples holds
BLOCK = 2**19
#: resamples that `enough_draws` returns at most
MOST_DRAWS = 100_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Args:
        estimate: the statistic of the rows as they are.
        low: lower end.
        high: upper end.
        p: two-sided p-value of "the true value is 0".
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

    BCa: bias-corrected and accelerated (Efron 1987; the acceleration of a mean is a sixth of the skewness of the sum).
    Percentile: the quantiles of the resampled means (Efron 1979). Both as far out as few rows ask for.

    Args:
        values: [rows] or [rows, columns], of paired comparisons the differences.
        confidence: share of intervals that hold the true mean.
        method: "BCa" or "percentile".
        draws: resamples.
        seed: of the resamples.

    Raises:
        UsageError: fewer than two rows, a number that is not finite, or an option out of range.

    Example:
        >>> mean_intervals([1.0] * 20)[0].low
        1.0
    """
    table = numpy.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    _check(len(table), confidence, method, draws)
    if not numpy.isfinite(table).all():
        row = int(numpy.argwhere(~numpy.isfinite(table))[0][0])
        raise UsageError("a value of a row is no finite number", place=f"row {row}", hint="leave the row out")
    intervals = []
    for start in range(0, table.shape[1], 64):
        columns = table[:, start : start + 64]
        means = columns.mean(0)
        drawn = _resampled_sums(columns, draws, numpy.random.default_rng(seed)) / len(columns)
        levels = _bca_levels(columns, means, drawn, confidence) if method == "BCa" else None
        intervals += _intervals(means, drawn, len(columns), confidence, levels)
    return intervals


def difference_intervals(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> list[Interval]:
    """Return percentile intervals of mean(first) - mean(second) of each column, for rows that are not paired.

    As each side has its own number of rows, the resampled differences themselves are spread out: by what a variance
    over n lacks to one over n - 1, and by Student's quantile over the normal one, with Welch's degrees of freedom.

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
        drawn = _resampled_sums(side, draws, random) / len(side)
        means.append((drawn - side.mean(0)) * (len(side) / (len(side) - 1)) ** 0.5)
    estimates = sides[0].mean(0) - sides[1].mean(0)
    drawn = estimates + (means[0] - means[1]) * _student_factor(sides, confidence)
    ends = numpy.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [
        Interval(float(estimate), float(low), float(high), p_value(column))
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
    both = numpy.concatenate([tops, bottoms[:, None]], axis=1)
    drawn = _resampled_sums(both, draws, numpy.random.default_rng(seed))
    drawn = drawn[drawn[:, -1] > 0]
    return _intervals(tops.sum(0) / bottoms.sum(), drawn[:, :-1] / drawn[:, -1:], len(tops), confidence)


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

    Few resamples have no tails from which a p-value could be read that holds among many attention heads: it is that
    of Student's t with the standard error of the resampled statistics (Efron and Tibshirani 1993, section 12.4).

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
    from scipy import stats

    _check(rows, confidence, method, draws)
    indices = numpy.arange(rows)
    estimate = float(statistic(indices))
    if not numpy.isfinite(estimate):
        raise UsageError("the statistic of all rows is no finite number", hint="give more rows")

    def safe(resampled: Any) -> float:
        # A resample may lack what the statistic needs (a class, a box): it says nothing about the spread.
        value = float(statistic(numpy.asarray(resampled)))
        return value if numpy.isfinite(value) else estimate

    widened = min(1 - 2 * float(stats.norm.cdf(-expanded_quantile(confidence, rows))), 1 - 1e-9)
    result = _bootstrap(indices, safe, widened, method, draws, seed)
    drawn = numpy.asarray(result.bootstrap_distribution)
    ends = result.confidence_interval
    low, high = _finite_ends(ends.low, ends.high, drawn)
    error = float(drawn.std(ddof=1)) * (rows / (rows - 1)) ** 0.5
    p = 2 * float(stats.t.cdf(-abs(estimate) / error, rows - 1)) if error > 0 else p_value(drawn, rows)
    return Interval(estimate, low, high, p)


def p_value(resampled: ArrayLike, rows: int | None = None) -> float:
    """Return the two-sided p-value of "the true value is 0" of resampled statistics.

    Twice the smaller share on one side of 0, both counts raised by one (Davison and Hinkley 1997, section 4.2).

    Args:
        resampled: statistics of resamples.
        rows: how many there are: few rows vary too little in resamples. None where the statistics are spread out
            already.
    """
    from scipy import stats

    drawn = numpy.asarray(resampled)
    less, more = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    p = min(1.0, 2 * (min(less, more) + 1) / (len(drawn) + 1))
    if rows is None or p == 1:
        return p
    return 2 * float(stats.t.cdf(stats.norm.ppf(p / 2) * ((rows - 1) / rows) ** 0.5, rows - 1))


def enough_draws(rows: int, comparisons: int, confidence: float, least: int = 2000) -> int:
    """Return how many resamples let the clearest effect become significant after a correction.

    The smallest p-value of n resamples is 2 / (n + 1) before it is made one of few rows, and a correction multiplies it
    by the comparisons; twice what this takes is returned, `MOST_DRAWS` at most.

    Args:
        rows: that are resampled.
        comparisons: how many are corrected together.
        confidence: of the intervals; 1 less it is the level of significance.
        least: resamples to return at least.
    """
    from scipy import stats

    needed = 2 * float(stats.norm.cdf(-expanded_quantile(1 - (1 - confidence) / comparisons, rows)))
    return max(least, min(MOST_DRAWS, int(4 / max(needed, 1e-12))))


def too_few(rows: int, draws: int, comparisons: int, level: float) -> list[str]:
    """Return that no effect can be significant, where the smallest possible p-value says so; else nothing.

    Args:
        rows: that are resampled.
        draws: resamples.
        comparisons: attention heads whose p-values are corrected together.
        level: of significance.
    """
    corrected = comparisons * p_value(numpy.ones(draws), rows)
    if corrected <= level:
        return []
    cause = f"{rows} rows and {draws} resamples cannot show an effect among {comparisons} attention heads"
    return [f"{cause}: the smallest p-value is {min(1.0, corrected):.2g} after the correction; use more of them"]


def expanded_quantile(confidence: float, rows: int) -> float:
    """Return the upper normal quantile of an interval, as far out as this many rows ask for; see the module."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, rows - 1)) * (rows / (rows - 1)) ** 0.5


def _resampled_sums(table: NDArray[numpy.float64], draws: int, random: numpy.random.Generator) -> NDArray[Any]:
    """Return the sums of columns over resamples of the rows [draws, columns], in blocks of one size."""
    rows = len(table)
    step = max(1, BLOCK // rows)
    parts = []
    for start in range(0, draws, step):
        count = min(step, draws - start)
        chosen = random.integers(rows, size=(count, rows)) + numpy.arange(count)[:, None] * rows
        # How often each row is drawn: one product gives the sums of all columns.
        often = numpy.bincount(chosen.ravel(), minlength=count * rows).reshape(count, rows)
        parts.append(often.astype(float) @ table)
    return numpy.concatenate(parts)


def _bca_levels(
    columns: NDArray[numpy.float64], means: NDArray[numpy.float64], drawn: NDArray[Any], confidence: float
) -> NDArray[numpy.float64]:
    """Return the levels [ends, columns] of the resampled means that are the ends of intervals (Efron 1987)."""
    from scipy import stats

    below = ((drawn < means).mean(0) + (drawn <= means).mean(0)) / 2
    bias = stats.norm.ppf(below)
    centred = columns - means
    squares = (centred**2).sum(0)
    spread = 6 * squares**1.5
    acceleration = numpy.divide((centred**3).sum(0), spread, out=numpy.zeros_like(spread), where=spread > 0)
    quantile = expanded_quantile(confidence, len(columns))
    with numpy.errstate(invalid="ignore"):
        shifted = bias + numpy.array([[-quantile], [quantile]])
        # Beyond the pole of the formula (few rows, one of them far out) the end is that of all resamples.
        room = 1 - acceleration * shifted
        levels = stats.norm.cdf(bias + shifted / room)
    return numpy.where(room > 0, levels, numpy.array([[0.0], [1.0]]))


def _intervals(
    estimates: NDArray[numpy.float64],
    drawn: NDArray[Any],
    rows: int,
    confidence: float,
    levels: NDArray[numpy.float64] | None = None,
) -> list[Interval]:
    """Return the interval of each column of resampled statistics, at percentiles unless levels are given."""
    from scipy import stats

    if levels is None:
        quantile = expanded_quantile(confidence, rows)
        levels = numpy.tile(stats.norm.cdf([[-quantile], [quantile]]), (1, drawn.shape[1]))
    intervals = []
    for estimate, column, ends in zip(estimates, drawn.T, levels.T, strict=True):
        low, high = numpy.quantile(column, ends) if numpy.isfinite(ends).all() else (numpy.nan, numpy.nan)
        intervals.append(Interval(float(estimate), *_finite_ends(low, high, column), p_value(column, rows)))
    return intervals


def _finite_ends(low: float, high: float, drawn: NDArray[Any]) -> tuple[float, float]:
    """Return the ends; where all resamples lie on one side of the estimate, or are alike, those of all resamples."""
    if numpy.isfinite(low) and numpy.isfinite(high):
        return float(low), float(high)
    return float(drawn.min()), float(drawn.max())


def _bootstrap(indices: Any, statistic: Any, confidence: float, method: Method, draws: int, seed: int) -> Any:
    from scipy import stats

    with warnings.catch_warnings():
        # BCa of rows that are all alike divides by 0: `_finite_ends` answers for them.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        return stats.bootstrap(
            (indices,),
            statistic,
            n_resamples=draws,
            confidence_level=confidence,
            method=method,
            rng=numpy.random.default_rng(seed),
            axis=-1,
            vectorized=False,
            batch=max(1, BLOCK // len(indices)),
        )


def _check(rows: int, confidence: float, method: str, draws: int) -> None:
    if method not in METHODS:
        raise unknown("bootstrap method", method, METHODS)
    if rows < 2:
        raise UsageError(f"an interval over {rows} rows", hint="give two rows or more")
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence}", hint="give a share between 0 and 1, such as 0.95")
    if draws < 1:
        raise UsageError(f"{draws} resamples", hint="give 1000 or more")
