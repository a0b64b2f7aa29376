"""Measurements before and after: metrics of rows, intervals of their paired differences, and wall time.

Entry points: `RowMetrics`, `paired_interval`, `wall_times`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topwork import Json

if TYPE_CHECKING:
    from topwork import Run


@dataclass
class RowMetrics:
    """The task's primary metric over the rows of a role, whole and for each row as if it were alone.

    Args:
        value: of all rows together.
        by_row: row index -> of the row alone.
    """

    value: float
    by_row: dict[int, float]


def measure_rows(run: Run, role: str, limit: int | None = None) -> RowMetrics:
    """Predict the rows of a role with the model as it is, and measure them."""
    whole, by_row = run.task.metric(), dict[int, float]()
    for index, row, prediction in run.predictions(role, limit):
        alone = run.task.metric()
        whole.update(row, prediction)
        alone.update(row, prediction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metrics of one row lack classes, pairs and the like
            by_row[index] = alone.primary_value()
    states = run.process.gather((whole, by_row))
    for other, values in states[1:]:
        states[0][0].merge(other)
        by_row |= values
    return RowMetrics(states[0][0].primary_value(), {**states[0][1], **by_row})


def paired_interval(before: RowMetrics, after: RowMetrics, seed: int = 0) -> dict[str, Json]:
    """Return the mean difference of the rows' own metrics, after - before, with its 95 % bootstrap interval."""
    import numpy as np
    from scipy.stats import bootstrap

    rows = sorted(set(before.by_row) & set(after.by_row))
    differences = np.array([after.by_row[row] - before.by_row[row] for row in rows])
    differences = differences[np.isfinite(differences)]
    result: dict[str, Json] = {"rows": len(differences)}
    if not len(differences):
        return result
    mean = float(differences.mean())
    result |= {"difference": mean, "low": mean, "high": mean}
    if len(differences) > 1 and float(differences.std()) > 0:
        drawn = bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(seed))
        result |= {"low": float(drawn.confidence_interval.low), "high": float(drawn.confidence_interval.high)}
    return result


def wall_times(runs: Sequence[Callable[[], Any]], repeats: int = 9) -> list[float]:
    """Return the seconds of the fastest run of each, run in turn: whatever else a machine does only adds to a time."""
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for index, run in enumerate(runs):
            start = now()
            run()
            seconds[index].append(now() - start)
    return [min(values) for values in seconds]


def now() -> float:
    """Return the seconds of a clock, when a GPU has done what it was given."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def reason_of_gap(speedup: float, limit: float, positions: int, kind: str) -> str:
    """Return why a model is not as much faster as it has fewer operations, or ""."""
    if speedup >= 0.9 * limit:
        return ""
    if kind == "parameters":
        return "parameters were counted, not operations"
    if kind == "nanoseconds":
        return "the table of latencies was measured at another moment, or on another batch"
    if positions < 256:
        return f"a batch of {positions} positions: calls of operations take their time whatever their size"
    return "the rest of the time is not in products: embeddings, norms, activations, copies"
