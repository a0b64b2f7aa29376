"""The stage `choose_thresholds`: the task's thresholds, chosen on calibrate rows and kept with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json, Stage, UsageError

if TYPE_CHECKING:
    from topwork import Run


class ChooseThresholds(Stage):
    """Choose the scores from which on something counts as predicted, on calibrate rows; the model folder keeps them."""

    name: ClassVar[str] = "choose_thresholds"
    changes_model: ClassVar[bool] = True

    role: Literal["calibrate", "train"] = Field("calibrate", description="whose rows")
    limit: PositiveInt | None = Field(None, description="use the first rows only")
    batch_size: PositiveInt = Field(32, description="most items in a batch")
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="autocast while predicting")

    def reads(self) -> tuple[str, ...]:
        """Return the role whose rows thresholds are chosen on."""
        return (self.role,)

    def precheck_model(self, run: Run) -> str | None:
        """Return that the task has no thresholds; None where it has."""
        if run.task.choose_thresholds(run.task.metric()) is None:
            return f"the task {run.task.name} has no thresholds to choose as it is"
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Predict the rows, choose by the task, and give the task the chosen options."""
        metric = run.metric(self.role, self.limit, items=self.batch_size, precision=self.precision)
        chosen = run.task.choose_thresholds(metric)
        if chosen is None:
            raise UsageError(f"the task {run.task.name} has no thresholds to choose as it is", place=self.name)
        before = {name: getattr(run.task.options, name) for name in chosen}
        run.change_options(**chosen)
        return {"change": "thresholds", "role": self.role, "chosen": chosen, "before": before}
