"""The stage `evaluate`: the task's metrics over rows; the predictions that are kept for readers: `gallery`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork.data.loop import Settings, evaluate_rows, loss_batches
from topwork.errors import UsageError
from topwork.items import Json
from topwork.shards.metric_states import decode_value, encode_value, metric_state, restore_metric
from topwork.stage import Stage
from topwork.stages.gallery import Gallery
from topwork.stages.row_groups import RowGroups
from topwork.stages.standing import standing

if TYPE_CHECKING:
    from topwork.metric import Metric
    from topwork.runs.run import Run
    from topwork.task import Task


class Evaluate(Stage):
    """Metrics over the evaluate rows (or those of another role)."""

    name: ClassVar[str] = "evaluate"

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")
    limit: PositiveInt | None = Field(None, description="use the first rows only")
    batch_size: PositiveInt = Field(32, description="most items in a batch")
    batch_cost: NonNegativeInt | None = Field(
        None, description="budget of tokens, pixels or samples in a batch; by default the task's own, 0 for none"
    )
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="autocast while predicting")
    loss: bool = Field(False, description="also the mean loss of the rows (a second pass)")
    pictures: NonNegativeInt = Field(12, description="how many of the worst predictions to draw")
    listed: NonNegativeInt = Field(
        500, description="how many of the worst predictions stand in the table of the page; none where none is drawn"
    )

    groups: int | None = Field(
        None, ge=2, description="random groups of rows for standard errors of the metrics, 20 for example: for the card"
    )

    def reads(self) -> tuple[str, ...]:
        """Return the role whose rows are measured."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Measure the metric, and draw the worst predictions."""
        settings = run.settings(items=self.batch_size, cost=self.batch_cost, precision=self.precision)
        rows = run.rows(self.role)
        resumed = standing(run, rows)
        before = {} if resumed is None or resumed.kept is None else decode_value(resumed.kept)
        losses = before["losses"] if before else self._losses(run) if self.loss else None
        seen = _Seen(run.task, Gallery(run.task, self.pictures, self.listed, losses), RowGroups(run.task, self.groups))
        if before and resumed is not None:
            seen.restore(before, settings, resumed.file)
        if resumed is not None:
            resumed.keep = partial(seen.state, settings, losses)
        start, count = time.perf_counter(), seen.count
        metric = evaluate_rows(
            run.task,
            run.model,
            rows,
            settings,
            run.process,
            limit=self.limit,
            watch=seen,
            progress=partial(run.progress, label="evaluating"),
            metric=seen.metric,
            standing=resumed,
        )
        speed = (seen.count - count) / (time.perf_counter() - start)
        for doubt in metric.doubts():
            run.say(f"doubtful: {doubt}")
        seen.gallery.write(run, rows)
        return self._result(run, metric, losses, seen, settings.skipped, speed)

    def _result(
        self,
        run: Run,
        metric: Metric,
        losses: Mapping[int, float] | None,
        seen: _Seen,
        skipped: list[dict[str, Json]],
        speed: float,
    ) -> dict[str, Json]:
        """Return the result of the stage.

        Args:
            run: the run.
            metric: of the rows of all processes.
            losses: of all rows, if they are wanted.
            seen: what this process has made of its rows.
            skipped: notes of the rows of all processes that were left out.
            speed: rows a second of this process.
        """
        values = metric.result()
        metrics = {key: values[key] for key in metric.keys}
        if losses is not None:
            metrics["loss"] = sum(losses.values()) / max(1, len(losses))
        return {
            "metrics": metrics,
            "tables": {key: value for key, value in values.items() if key not in metrics},
            "primary": metric.primary,
            "measures": "model",
            "role": self.role,
            "higher_is_better": metric.higher_is_better,
            "rows": sum(run.process.gather(seen.count)),
            "rows_per_second": round(sum(run.process.gather(speed)), 2),
            "skipped": len(skipped),
            "skipped_rows": skipped[:20],
            **seen.groups.result(run.process),
        }

    def _losses(self, run: Run) -> dict[int, float]:
        """Return the loss of each row of all processes, by its index, as if the row were alone."""
        import torch

        settings = run.settings(items=self.batch_size, cost=self.batch_cost, precision=self.precision)
        losses: dict[int, float] = {}
        with torch.inference_mode():
            for batch in loss_batches(
                run.task, run.model, run.rows(self.role), settings, run.process, limit=self.limit
            ):
                losses.update(zip(batch.row_numbers, run.task.row_losses(run.model, batch).double().tolist()))
        return {row: loss for share in run.process.gather(losses) for row, loss in share.items()}


class _Seen:
    """What an evaluation has made of this process's rows so far: the metric, its groups, the gallery, their number."""

    def __init__(self, task: Task, gallery: Gallery, groups: RowGroups) -> None:
        self.task, self.gallery, self.groups = task, gallery, groups
        self.metric, self.count = task.metric(), 0

    def __call__(self, number: int, row: Any, prediction: Any) -> None:
        """Take a row that the metric has taken."""
        self.count += 1
        self.gallery(number, row, prediction)
        self.groups(number, row, prediction)

    def state(self, settings: Settings, losses: Mapping[int, float] | None) -> Json | None:
        """Return all of it as JSON, for `restore`; None for a metric whose state cannot be written."""
        fresh = self.task.metric()
        try:
            metrics = [metric_state(metric, fresh) for metric in (self.metric, *self.groups.metrics)]
        except UsageError:
            return None
        known = {"metrics": metrics, "gallery": self.gallery.state(), "count": self.count}
        return encode_value({**known, "losses": losses, "skipped": settings.skipped})

    def restore(self, state: Mapping[str, Any], settings: Settings, file: Path) -> None:
        """Take over what an earlier process had made of the rows before; `file` is for errors."""
        for metric, kept in zip((self.metric, *self.groups.metrics), state["metrics"], strict=True):
            metric.merge(restore_metric(self.task.metric(), kept, file))
        self.gallery.restore(state["gallery"])
        self.count = state["count"]
        settings.skipped.extend(state["skipped"])
