"""The stage `early_exit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json, Stage

if TYPE_CHECKING:
    from topwork import Run


class EarlyExit(Stage):
    """Measure the task when its trained head reads the hidden state of each layer (logit lens); nothing is changed."""

    name: ClassVar[str] = "early_exit"
    columns_shown: ClassVar[tuple[str, ...]] = ("layers_count", "first_within")

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")
    limit: PositiveInt | None = Field(None, description="use the first rows only")
    stack: str | None = Field(None, description="path of the stack of layers; by default the one that the head reads")
    within: float = Field(0.9, gt=0, le=1, description="share of the whole model's metric that a layer has to reach")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.exits.study import first_within, metrics_by_layer, readable_stack, reads_several
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        metric = run.task.metric()
        row = next(iter(run.rows(self.role)))
        items = run.task.encode([row], "predict", run.seed)
        batch = run.task.collate(items, "predict").to(run.device)

        def predict() -> list[Any]:
            return run.task.predict(run.model, batch)

        stack, layers = readable_stack(look, predict, self.stack)
        lines = metrics_by_layer(look, stack, layers, lambda: run.evaluate(self.role, limit=self.limit))
        values = [line.get(metric.primary) for line in lines]
        series = {metric.primary: [[layer, value] for layer, value in enumerate(values)]}
        first = first_within(values, self.within, higher_is_better=metric.higher_is_better)
        return {
            "stack": stack,
            "layers_count": layers,
            "head_reads": "several layers" if reads_several(look, stack, layers, predict) else "last layer",
            "first_within": first,
            "metrics": {metric.primary: values[-1], "first_within": first},
            "primary": metric.primary,
            "higher_is_better": metric.higher_is_better,
            "measures": "part",
            "tables": {"by layer": lines},
            "curves": [{"title": f"{metric.primary} of the head on each layer", "x": "layer", "series": series}],
        }
