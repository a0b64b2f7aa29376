"""The stage `evaluate`: the task's metrics over rows, and pictures of the predictions, the worst first."""

from __future__ import annotations

import heapq
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork.data.loop import evaluate_rows, loss_batches
from topwork.data.table import row_number
from topwork.files import write_json
from topwork.items import Json, Picture
from topwork.stage import Stage

if TYPE_CHECKING:
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

    def reads(self) -> tuple[str, ...]:
        """Return the role whose rows are measured."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Measure the metric, and draw the worst predictions."""
        settings = run.settings(items=self.batch_size, cost=self.batch_cost, precision=self.precision)
        gallery = Gallery(run.task, self.pictures)
        rows = run.rows(self.role)
        start = time.perf_counter()
        watched = _counted(gallery)
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
        metrics = {key: values[key] for key in metric.keys}
        if self.loss:
            metrics["loss"] = self._mean_loss(run)
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
        }

    def _mean_loss(self, run: Run) -> float:
        """Return the mean of the row losses, each as if the row were alone."""
        import torch

        settings = run.settings(items=self.batch_size, cost=self.batch_cost, precision=self.precision)
        total, count = 0.0, 0
        with torch.inference_mode():
            for batch in loss_batches(
                run.task, run.model, run.rows(self.role), settings, run.process, limit=self.limit
            ):
                losses = run.task.row_losses(run.model, batch)
                total, count = total + float(losses.double().sum()), count + len(losses)
        sums = run.process.gather((total, count))
        return sum(total_loss for total_loss, _ in sums) / max(1, sum(number for _, number in sums))


class _counted:
    """Hands rows on to the gallery and counts them."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.count = gallery, 0

    def __call__(self, number: int, row: Any, prediction: Any) -> None:
        self.count += 1
        self.gallery(number, row, prediction)


class Gallery:
    """The `most` worst predictions, drawn. Drawing is cheap beside predicting, keeping all is not."""

    def __init__(self, task: Task, most: int) -> None:
        from topwork.task import Task

        self.task, self.most = task, most
        self._plain = type(task).draw is Task.draw  # a drawing that does not say how bad a prediction is
        self._kept: list[tuple[float, int, Picture]] = []

    def __call__(self, index: int, row: Any, prediction: Any) -> None:
        """Draw the prediction of a row, and keep it when it is among the worst so far."""
        if not self.most:
            return
        picture = self.task.draw(row, prediction)
        badness = self._badness(row, prediction) if self._plain else picture.badness
        ranked = (badness, -index, picture)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, ranked)
        elif ranked[:2] > self._kept[0][:2]:
            heapq.heapreplace(self._kept, ranked)

    def _badness(self, row: Any, prediction: Any) -> float:
        """Return how bad a prediction is: by the task's metric, of this row alone."""
        metric = self.task.metric()
        metric.update(row, prediction)
        value = float(metric.result()[metric.primary])
        if not math.isfinite(value):
            return 0.0
        return -value if metric.higher_is_better else value

    def write(self, run: Run, rows: Any) -> None:
        """Write pictures.json, pictures/0001.png and 0001.wav ...: the worst of all processes."""
        gathered = [ranked for kept in run.process.gather(self._kept) for ranked in kept]
        worst = sorted(gathered, key=lambda ranked: ranked[:2], reverse=True)[: self.most]
        if not run.process.main or not worst:
            return
        lines = []
        for position, (badness, index, picture) in enumerate(worst):
            image = None
            if picture.image is not None:
                image = f"pictures/{position + 1:04d}.png"
                file = Path(run.folder) / image
                file.parent.mkdir(exist_ok=True)
                picture.image.save(file)
            line: dict[str, Any] = {
                "row": row_number(rows, -index),
                "caption": picture.caption,
                "badness": badness,
                "image": image,
                "text": [list(piece) for piece in picture.text],
            }
            if picture.audio is not None:
                line["audio"] = f"pictures/{position + 1:04d}.wav"
                file = Path(run.folder) / line["audio"]
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(picture.audio)
            lines.append(line)
        write_json(Path(run.folder) / "pictures.json", lines)
