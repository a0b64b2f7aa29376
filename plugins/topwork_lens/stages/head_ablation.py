"""The stage `head_ablation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json, Stage
from topwork_lens.stages.head_importance import Group

if TYPE_CHECKING:
    from topwork import Run


_MAPS = {
    "one_removed": {"title": "Without the attention head", "note": "change of the metric"},
    "all_but_one": {"title": "With the attention head alone in its layer", "note": "change of the metric"},
}


class HeadAblation(Stage):
    """Measure what happens without each attention head, and with each alone in its layer; the model stays as it is."""

    name: ClassVar[str] = "head_ablation"

    tables: list[Literal["one_removed", "all_but_one"]] = Field(
        ["one_removed", "all_but_one"],
        description="one_removed: without each attention head; all_but_one: each alone in its layer",
    )
    role: Literal["calibrate", "evaluate"] = Field("evaluate", description="whose rows")
    limit: PositiveInt | None = Field(None, description="use the first rows only")
    groups: list[Group] | None = Field(None, description="only attention heads of these groups")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_lens.look import Look
        from topwork_lens.scoring.ablation import ablate, summary
        from topwork_lens.scoring.selection import in_groups

        metric = run.task.metric()
        layers = in_groups(Look(run.model, run.plugins).active_layers(), self.groups)
        table = ablate(
            run.model,
            layers,
            lambda: float(run.evaluate(self.role, limit=self.limit)[metric.primary]),
            one_removed="one_removed" in self.tables,
            all_but_one="all_but_one" in self.tables,
            progress=lambda values: run.progress(values, label="head ablation"),
        )
        result = {**summary(table, metric.higher_is_better), "primary": metric.primary, "layers": table["layers"]}
        return {**result, "head_maps": [{"key": name, **_MAPS[name]} for name in self.tables]}
