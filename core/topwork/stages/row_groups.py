"""Standard errors of a metric while it is measured: rows go to random groups as well. Entry point: `RowGroups`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from topwork.items import Json
from topwork.shards.measuring import summary

if TYPE_CHECKING:
    from topwork.process import Process
    from topwork.task import Task


class RowGroups:
    """Metrics of random groups of rows, for the delete-a-group jackknife (see `topwork.shards.measuring`).

    Args:
        task: whose metric it is.
        groups: how many; fewer than 2 give no standard errors.
    """

    def __init__(self, task: Task, groups: int | None) -> None:
        self.task = task
        self.metrics = [task.metric() for _ in range(groups or 0)]

    def __call__(self, index: int, row: Any, prediction: Any) -> None:
        """Give a row that the metric has taken to its group: random, and the same for the same index."""
        if self.metrics:
            self.metrics[random.Random(index).randrange(len(self.metrics))].update(row, prediction)

    def result(self, process: Process) -> dict[str, Json]:
        """Return {"standard_errors", "groups"} over the rows of all processes; empty without groups."""
        if len(self.metrics) < 2:
            return {}
        shares = process.gather(self.metrics)
        for share in shares[1:]:
            for metric, other in zip(shares[0], share, strict=True):
                metric.merge(other)
        measured = summary(self.task, shares[0])
        return {key: measured[key] for key in ("standard_errors", "groups")}
