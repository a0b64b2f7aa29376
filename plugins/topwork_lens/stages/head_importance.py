"""The stage `head_importance`, and the options by which other stages score as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from topwork import Json, Stage

if TYPE_CHECKING:
    from topwork import Run
    from topwork_lens.scoring.selection import Importance

Group = Literal["encoder", "decoder", "cross", "backbone"]


class ScoreOptions(BaseModel):
    """Options of scoring attention heads."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["michel", "taylor", "leave_one_out", "shapley", "entropy", "random"] = Field(
        "michel", description="michel: mean |gradient of the gate|; the others are described in the README"
    )
    rows: PositiveInt = Field(1000, description="take at most this many calibration rows")
    reduction: Literal["example", "token", "batch"] = Field(
        "example", description="what the absolute value is taken of"
    )
    normalise: Literal["layer", "none", "global"] = Field("layer", description="layer: divide by the layer's l2 norm")
    batch_size: PositiveInt | None = Field(None, description="rows a batch; by default what the memory budget allows")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: under autocast; several times faster where the machine has it, and ranks alike"
    )
    orders: PositiveInt = Field(8, description="shapley: random orders in which the attention heads go")
    groups: list[Group] | None = Field(None, description="score only these groups")


def score_model(run: Run, options: ScoreOptions) -> Importance:
    """Score the attention heads of the run's model on calibration rows, by the task's own row losses."""
    import torch

    from topwork_lens.look import Look

    batches = run.loss_batches("calibrate", limit=options.rows, batch_size=options.batch_size)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        return Look(run.model, run.plugins).importance(
            run.progress(batches, label=f"head importance ({options.method})"),
            options.method,
            row_losses=run.task.row_losses,
            reduction=options.reduction,
            normalise=options.normalise,
            seed=run.seed,
            orders=options.orders,
            groups=options.groups,
            gather=run.process.gather,
        )


class HeadImportance(ScoreOptions, Stage):
    """Score every attention head by how much the task's loss depends on it."""

    name: ClassVar[str] = "head_importance"
    columns_shown: ClassVar[tuple[str, ...]] = ("method", "rows")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return ("calibrate",)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        importance = score_model(run, self)
        if run.process.main:
            importance.save(run.folder)
        run.process.barrier()
        title = f"Importance of the attention heads ({importance.method})"
        return {**importance.json(), "head_maps": [{"key": "scores", "title": title, "crossed": True}]}
