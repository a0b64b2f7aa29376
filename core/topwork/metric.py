"""The contract of a metric: streaming, with keys known before the run, and states that merge across processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from topwork.items import Json, Prediction, Row


class Metric(ABC):
    """Collects rows and their predictions one by one and answers with numbers at the end.

    Attributes:
        keys: names of the numbers that `result` always contains.
        primary: the key that choosing (best checkpoint, early stopping, pruning search) goes by.
        higher_is_better: the direction of `primary`.

    The state must stay small (a few numbers a row, never a map or a picture) and be picklable: processes exchange
    whole metrics and `merge` them.
    """

    keys: tuple[str, ...]
    primary: str
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def update(self, row: Row, prediction: Prediction) -> None:
        """Take one row with its target and its prediction."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take over the state of another metric of the same kind (another process, the next rows)."""

    @abstractmethod
    def result(self) -> dict[str, Json]:
        """All of `keys` as floats, and whatever tables go with them (per class, confusion matrix) as JSON.

        A metric that has seen no row answers NaN for its keys.
        """
