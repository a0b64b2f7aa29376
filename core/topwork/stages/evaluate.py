"""The stage `evaluate`: the task's metrics over rows; the predictions that are kept for readers: `gallery`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork.data.loop import evaluate_rows, loss_batches
from topwork.items import Json
from topwork.stage import Stage
from topwork.stages.gallery import Gallery
from topwork.stages.row_groups import RowGroups

if TYPE_CHECKING:
    from topwork.runs.run import Run


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
        losses = self._losses(run) if self.loss else None
        gallery = Gallery(run.task, self.pictures, self.listed, losses)
        rows = run.rows(self.role)
        start = time.perf_counter()
        groups = RowGroups(run.task, self.groups)
        watched = _counted(gallery, groups)
        metric = evaluate_rows(
            run.task,
            run.model,
            rows,
            settings,
            run.process,
            limit=self.limit,
            watch=watched,
            progress=partial(run.progress, label="evaluating"),
        )
        seconds = time.perf_counter() - start
        values = metric.result()
        for doubt in metric.doubts():
            run.say(f"doubtful: {doubt}")
        metrics = {key: values[key] for key in metric.keys}
        if losses is not None:
            metrics["loss"] = sum(losses.values()) / max(1, len(losses))
        count = sum(run.process.gather(watched.count))
        gallery.write(run, rows)
        return {
            "metrics": metrics,
            "tables": {key: value for key, value in values.items() if key not in metrics},
            "primary": metric.primary,
            "measures": "model",
            "role": self.role,
            "higher_is_better": metric.higher_is_better,
            "rows": count,
            "rows_per_second": round(count / seconds, 2),
            "skipped": len(settings.skipped),
            "skipped_rows": settings.skipped[:20],
            **groups.result(run.process),
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


class _counted:
    """Hands rows on to the gallery and to the groups of the metric, and counts them."""

    def __init__(self, gallery: Gallery, groups: RowGroups) -> None:
        self.gallery, self.groups, self.count = gallery, groups, 0

    def __call__(self, number: int, row: Any, prediction: Any) -> None:
        self.count += 1
        self.gallery(number, row, prediction)
        self.groups(number, row, prediction)
