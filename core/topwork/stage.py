"""The contract of a stage: one step of a recipe, such as train, evaluate or prune_heads."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from topwork.items import Json

if TYPE_CHECKING:
    from topwork.runs.run import Run


class Stage(BaseModel):
    """A stage is a pydantic model: its fields are its options in a recipe; unknown keys are errors.

    Class attributes:
        name: as in a recipe.
        changes_model: True when the model is another one afterwards: the run then stores it, and `resume` starts there.
        columns_shown: keys of the result that stand in the summary table, in this order; the result's other plain
            numbers are kept in its JSON only.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    name: ClassVar[str]
    changes_model: ClassVar[bool] = False
    columns_shown: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        """Roles of the rows that the stage needs with these options: "train", "calibrate", "evaluate", "predict"."""
        return ()

    @abstractmethod
    def __call__(self, run: Run) -> dict[str, Json]:
        """Do it. `run` has `.task`, `.model`, `.rows(role)`, `.folder` (this stage's own), `.process`, `.seed`,
        `.progress(...)` and `.results` (what the stages before it answered). On several processes every process calls
        it; only `run.process.main` writes files.

        A folder `checkpoints` inside the stage's own is scratch: it is dropped once the result is on disk.

        Returns:
            JSON for the stage's result.json; its plain numbers stand in the summary table. The page shows all of it,
            and draws what it knows by these keys: "metrics" {name: number} with "primary"; "tables" {title: list of
            dicts, or {"columns", "rows"}, or a confusion matrix {"labels", "counts"}}; "history" [{"step", name:
            number}]; "curves" [{"title", "x", "series": {name: [[x, y], ...]}}]; and "layers" [{"path", "number",
            "scores": a number for each attention head}].
        """
