"""The contract of a stage: one step of a recipe, such as train, evaluate or prune_heads; and of its result.

What a stage is given is `topwork.Run`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from pydantic import BaseModel, ConfigDict

from topwork.items import Json

if TYPE_CHECKING:
    from topwork import Run


class RandomBaseline(TypedDict, total=False):
    """Measurements of random choices, beside which the choice of a stage is judged.

    Keys:
        draws: how many random choices were measured.
        metrics: name -> mean over the draws.
        each: the metrics of each draw.
    """

    draws: int
    metrics: dict[str, float]
    each: list[dict[str, float]]


class StageResult(TypedDict, total=False):
    """What the result of a stage may contain, beside keys of its own; JSON only.

    A stage gives those that apply. The page of a run draws them, and later stages look for them; everything else is
    shown as plain numbers and tables.

    Keys:
        metrics: name -> number: what was measured, `primary` among them.
        primary: the metric to choose by.
        higher_is_better: the direction of `primary`.
        measures: what `metrics` say something about: "model" for the whole model as it is now, "part" for anything
            else (a probe, a part of the rows). Without it only `evaluate` measures the model.
        rows: how many rows were used.
        skipped, skipped_rows: rows that were left out, their number and the first of them: {"row", "column", "cause"}.
        heads_before, heads_after: attention heads of the model: the stage removed or masked the difference.
        parameters_before, parameters_after: the same of parameters.
        removed, masked: path of an attention layer -> original indices of its heads that the stage took away.
        layers: one entry an attention layer: {"path", "number", "scores" | "kept" ...}, lists with a value for each
            attention head.
        method: how `layers` were scored.
        random_baseline: what random choices of the same size gave.
        history: [{"step", name: number}] of a training.
        curves: [{"title", "x", "series": {name: [[x, y], ...]}}].
        tables: title -> list of dicts, or {"columns", "rows"}, or a confusion matrix {"labels", "counts"}.
        model_folder: where a model was saved, relative to the run folder when it lies inside.
    """

    metrics: dict[str, float]
    primary: str
    higher_is_better: bool
    measures: str
    rows: int
    skipped: int
    skipped_rows: list[dict[str, Any]]
    heads_before: int
    heads_after: int
    parameters_before: int
    parameters_after: int
    removed: dict[str, list[int]]
    masked: dict[str, list[int]]
    layers: list[dict[str, Any]]
    method: str
    random_baseline: RandomBaseline
    history: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    tables: dict[str, Any]
    model_folder: str


class Stage(BaseModel):
    """A pydantic model whose fields are the options of a stage in a recipe; unknown keys are errors.

    Class attributes:
        name: as in a recipe.
        changes_model: True when the model is another one afterwards: the run then stores it, and `resume` starts there.
        columns_shown: keys of the result that stand in the summary table, in this order; the result's other plain
            numbers are kept in its JSON only.

    Example:
        class CountRows(Stage):
            name = "count_rows"
            role: str = Field("evaluate", description="whose rows")

            def reads(self):
                return (self.role,)

            def __call__(self, run):
                return {"rows": len(run.rows(self.role))}
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    name: ClassVar[str]
    changes_model: ClassVar[bool] = False
    columns_shown: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        """Return the roles of the rows that the stage needs with these options.

        Roles are "train", "calibrate", "evaluate" and "predict".
        """
        return ()

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return what would end the run in this stage and shows already in the recipe; None if nothing does.

        Args:
            before: the stages that come before it in the recipe.
        """
        return None

    @abstractmethod
    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage.

        On several processes every process calls it, and only `run.process.main` writes files. A folder `checkpoints`
        inside the stage's own is scratch: it is removed once the result is on disk.

        Args:
            run: has `.task`, `.model`, `.rows(role)`, `.folder` (this stage's own), `.process`, `.seed`,
                `.progress(...)` and `.results` (what the stages before it returned).

        Returns:
            JSON for result.json in the stage's folder, with the keys of `StageResult` that apply, and keys of its own.
            Plain numbers stand in the summary table.
        """
