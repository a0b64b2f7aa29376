"""Metric and loss of every row, and what changes between two states of a model.

Entry points: `measure` (a run as it is now -> `RowValues`), `without_peers`, `MetricDifference`. A metric that is the
mean of the metrics of single rows (accuracy, absolute errors) is compared row by row; any other (F1, mAP, BLEU) is
computed anew for each resample of rows, by merging the metrics of single rows.
"""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy
from numpy.typing import NDArray

from topwork import DataError, Metric, Task, UsageError
from topwork_analyses.statistics.bootstrap import Interval, Method, mean_intervals, statistic_interval

if TYPE_CHECKING:
    from topwork import Run

Measure = Literal["metric", "loss"]


@dataclass
class RowValues:
    """Measurements of each row.

    Args:
        rows: indices of the rows in their role, ascending.
        metrics: by measured row a metric that has seen that row alone, one object for all rows that are alike to it;
            empty where the metric is not measured.
        losses: [rows]; None where the loss is not measured.
    """

    rows: list[int]
    metrics: list[Metric]
    losses: NDArray[numpy.float64] | None


@dataclass(frozen=True)
class Options:
    """Options of intervals.

    Args:
        confidence: share of intervals that hold the true value.
        method: "BCa" or "percentile"; metrics over a corpus use percentiles, for BCa computes them once more a row.
        draws: resamples of means over rows.
        corpus_draws: resamples where a metric has to be computed for each.
        seed: of the resamples.
    """

    confidence: float = 0.95
    method: Method = "BCa"
    draws: int = 2000
    corpus_draws: int = 200
    seed: int = 0


def measure(run: Run, role: str, limit: int | None, measures: Sequence[Measure]) -> RowValues:
    """Measure every row of a role with the model as it is now; every process gets the values of all rows.

    Raises:
        UsageError: there are fewer than two rows.
    """
    by_row: dict[int, Metric] = {}
    losses: dict[int, float] = {}
    shared: dict[bytes, Metric] = {}
    if "metric" in measures:
        for index, row, prediction in run.predictions(role, limit):
            metric = run.task.metric()
            try:
                metric.update(row, prediction)
            except DataError:  # a target that only the metric looks at
                if run.on_error != "skip":
                    raise
                continue
            by_row[index] = shared.setdefault(_digest(pickle.dumps(metric)), metric)
    if "loss" in measures:
        losses = _row_losses(run, role, limit)
    by_row = {index: metric for part in run.process.gather(by_row) for index, metric in part.items()}
    losses = {index: loss for part in run.process.gather(losses) for index, loss in part.items()}
    both = "metric" in measures and "loss" in measures
    rows = sorted(by_row.keys() & losses.keys() if both else by_row.keys() | losses.keys())
    if len(rows) < 2:
        raise UsageError(f"intervals over {len(rows)} rows of `{role}`", hint="give two rows or more")
    values = numpy.array([losses[index] for index in rows]) if losses else None
    return RowValues(rows, [by_row[index] for index in rows] if by_row else [], values)


def without_peers(run: Run) -> Run:
    """Return a view of a run in which this process measures all rows by itself, as one without peers does."""
    lonely = copy.copy(run)
    lonely.process = type(run.process).alone()
    return lonely


def _row_losses(run: Run, role: str, limit: int | None) -> dict[int, float]:
    import torch

    losses: dict[int, float] = {}
    with torch.no_grad():
        for batch in run.loss_batches(role, limit=limit):
            values = run.task.row_losses(run.model, batch).double().tolist()
            losses.update(zip(batch.row_numbers, values, strict=True))
    return losses


class MetricDifference:
    """Differences of a metric between states of a model, with intervals over rows.

    Args:
        task: whose metric it is.
        base: the metrics of single rows, in the state that others are compared with.
        options: of intervals.
    """

    def __init__(self, task: Task, base: Sequence[Metric], options: Options) -> None:
        self.task, self.base, self.options = task, list(base), options
        self.primary, self.sign = task.metric().primary, 1 if task.metric().higher_is_better else -1
        #: whether some state showed that the metric is no mean over rows
        self.is_corpus = False
        #: digest of a row's metric in the base state -> its value: most rows are the same in other states
        self._values: dict[bytes, float] = {}
        #: digest of a resample -> the base state's metric of it
        self._resampled: dict[bytes, float] = {}

    @cached_property
    def value(self) -> float:
        """The metric of all rows in the base state."""
        return self._merged(self.base, numpy.arange(len(self.base)))

    @cached_property
    def by_row(self) -> NDArray[numpy.float64] | None:
        """[rows]: the base state's metric of each row; None when the metric is no mean of them.

        It is one when that holds for all rows, for three random halves of them and for a sample with repetitions.
        Each state that is compared is tested too: of a perfect model, any metric is the mean of ones.
        """
        return self._means(self.base)

    def changes(self, metrics: Sequence[Metric]) -> NDArray[numpy.float64] | None:
        """Return [rows]: the change of each row's metric against the base state; None when the metric is no mean."""
        if self.is_corpus or self.by_row is None:
            return None
        values = self._means(metrics)
        self.is_corpus = values is None
        return None if values is None else values - self.by_row

    def _means(self, metrics: Sequence[Metric]) -> NDArray[numpy.float64] | None:
        values = self._row_values(metrics)
        random = numpy.random.default_rng(0)
        count = len(metrics)
        samples = [numpy.arange(count), random.integers(count, size=count)]
        samples += [random.choice(count, size=(count + 1) // 2, replace=False) for _ in range(3)]
        if not numpy.isfinite(values).all():
            return None
        for sample in samples:
            if not math.isclose(self._merged(metrics, sample), values[sample].mean(), rel_tol=1e-9, abs_tol=1e-12):
                return None
        return values

    def interval(self, metrics: Sequence[Metric], rows: NDArray[numpy.int64] | None = None) -> Interval:
        """Return the change of the metric against the base state, with its interval.

        Args:
            metrics: of single rows, in the other state.
            rows: positions in the lists to which the comparison is restricted.
        """
        chosen = numpy.arange(len(self.base)) if rows is None else rows
        options = self.options
        changes = self.changes(metrics)
        if changes is not None:
            return mean_intervals(
                changes[chosen],
                confidence=options.confidence,
                method=options.method,
                draws=options.draws,
                seed=options.seed,
            )[0]

        def change(sample: NDArray[numpy.int64]) -> float:
            return self._merged(metrics, chosen[sample]) - self._base_of(chosen[sample])

        return statistic_interval(
            change,
            len(chosen),
            confidence=options.confidence,
            method="percentile",
            draws=options.corpus_draws,
            seed=options.seed,
        )

    def change(self, metrics: Sequence[Metric], rows: NDArray[numpy.int64]) -> float:
        """Return the change of the metric on some rows, without an interval."""
        if (changes := self.changes(metrics)) is not None:
            return float(changes[rows].mean())
        return self._merged(metrics, rows) - self._base_of(rows)

    def _base_of(self, sample: NDArray[numpy.int64]) -> float:
        """Return the base state's metric of a resample: each attention head needs the same resamples."""
        key = _digest(sample.tobytes())
        if key not in self._resampled:
            self._resampled[key] = self._merged(self.base, sample)
        return self._resampled[key]

    def _merged(self, metrics: Sequence[Metric], sample: NDArray[numpy.int64]) -> float:
        total = self.task.metric()
        for index in sample.tolist():
            total.merge(metrics[index])
        return self._result(total)

    def _result(self, metric: Metric) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a metric over few rows has too little of
            return metric.primary_value()

    def _row_values(self, metrics: Sequence[Metric]) -> NDArray[numpy.float64]:
        """Return the metric of each row alone. Rows with the same truth and prediction are computed once."""
        known = self._values if metrics is self.base else dict(self._values)
        values = []
        for metric in metrics:
            key = _digest(pickle.dumps(metric))
            if key not in known:
                known[key] = self._result(metric)
            values.append(known[key])
        return numpy.array(values)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def row_cells(cells: Sequence[Any], rows: Sequence[int], column: str) -> list[Any]:
    """Return the cells of some rows.

    Raises:
        UsageError: a cell is a list or the like, by which rows cannot be grouped.
    """
    for index in rows:
        if not isinstance(cells[index], str | int | float | bool | None):
            cause = f"a cell of `{column}` is a {type(cells[index]).__name__}"
            raise UsageError(cause, place=f"row {index}", hint="name a column with one text or number a row")
    return [cells[index] for index in rows]
