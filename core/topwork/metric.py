"""The contract of a metric: streaming, with keys known before the run, and states that merge across processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from topwork.items import Json, Prediction, Row


class Metric(ABC):
    """Streaming metric: takes rows with their predictions one by one, and gives numbers at the end.

    The state must stay small (a few numbers a row, never a map or an image) and be picklable: processes exchange whole
    metrics and `merge` them. `topwork.testing.check_metric` tests an implementation.

    Attributes:
        keys: names of the numbers that `result` always contains.
        primary: the key that choosing (best checkpoint, early stopping, pruning search) goes by.
        higher_is_better: the direction of `primary`.
    """

    keys: tuple[str, ...]
    primary: str
    higher_is_better: bool = True

    @abstractmethod
    def update(self, row: Row, prediction: Prediction) -> None:
        """Take one row with its target and its prediction."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take over the state of another metric of the same kind (another process, the next rows)."""

    @abstractmethod
    def result(self) -> dict[str, Json]:
        """Return all of `keys` as floats, and whatever tables go with them (per class, confusion matrix) as JSON.

        A metric without rows gives NaN for its keys.
        """

    def primary_value(self) -> float:
        """Return the number of `result` under `primary`; worth its own code where tables cost more than that number.

        Analyses ask for it once for each row and each attention head.
        """
        value: Any = self.result()[self.primary]
        return float(value)

    def doubts(self) -> list[str]:
        """Return what makes the result doubtful, in sentences for the log. Default: nothing."""
        return []


class MeanMetric(Metric):
    """Means over rows of the numbers that a function measures; enough for many tasks.

    Args:
        measure: (row, prediction) -> {key: number}; a function of a module, so that processes can exchange the metric.
        keys: the keys that it gives.
        primary: the key to choose by; the first by default.
        higher_is_better: its direction.

    Example:
        >>> def measure(row, prediction):
        ...     return {"exact": float(prediction == row["label"])}
        >>> metric = MeanMetric(measure, ("exact",))
        >>> metric.update({"label": "yes"}, "yes")
        >>> metric.update({"label": "yes"}, "no")
        >>> metric.result()
        {'exact': 0.5}
    """

    def __init__(
        self,
        measure: Callable[[Row, Prediction], Mapping[str, float]],
        keys: tuple[str, ...],
        primary: str | None = None,
        higher_is_better: bool = True,
    ) -> None:
        self.measure, self.keys, self.primary = measure, keys, primary or keys[0]
        self.higher_is_better = higher_is_better
        self.sums = dict.fromkeys(keys, 0.0)
        self.count = 0

    def update(self, row: Row, prediction: Prediction) -> None:
        """Add the numbers of one row."""
        for key, number in self.measure(row, prediction).items():
            self.sums[key] += number
        self.count += 1

    def merge(self, other: MeanMetric) -> None:
        """Add the sums of another metric of the same function."""
        self.sums = {key: total + other.sums[key] for key, total in self.sums.items()}
        self.count += other.count

    def result(self) -> dict[str, Json]:
        """Return the means; NaN without rows."""
        return {key: total / self.count if self.count else float("nan") for key, total in self.sums.items()}
