"""The stage `importance_over_training`: a training in which attention heads are scored at every evaluation.

Michel et al. (2019, section 5): early in training all attention heads matter alike, later a few of them matter most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError

from topwork import Json, Run, Stage, UsageError
from topwork_lens.stages.head_importance import ScoreOptions, score_model

if TYPE_CHECKING:
    from topwork_lens.scoring.selection import Importance


class ImportanceOverTraining(Stage):
    """Train, and score the attention heads before it and at every evaluation in it: how importance comes about."""

    name: ClassVar[str] = "importance_over_training"
    changes_model: ClassVar[bool] = True
    columns_shown: ClassVar[tuple[str, ...]] = ("scored", "concentration_before", "concentration_after", "agreement")

    train: dict[str, Any] = Field(
        default_factory=dict, description="options of the stage train; evaluate_every says when heads are scored"
    )
    importance: ScoreOptions = Field(ScoreOptions(normalise="none"), description="how attention heads are scored")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return ("train", "calibrate")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        stage = self._train_stage(run)
        scored = ScoredRun.of(run, self.importance)
        scored.score()
        with run.nested("training"):
            scored.folder = run.folder
            trained = stage(scored)
        return {**_summary(scored.scores), "history": trained["history"], "change": "training"}

    def _train_stage(self, run: Run) -> Stage:
        """Return the stage `train` with these options; it evaluates at the end of each epoch unless it says otherwise.

        Raises:
            UsageError: the options are wrong.
        """
        try:
            return run.plugins.stage("train")(**{"evaluate_every": "epoch", "checkpoint_every": "never", **self.train})
        except ValidationError as error:
            first = error.errors()[0]
            option = ".".join(["train", *map(str, first["loc"])])
            raise UsageError(first["msg"], place=f"stage {self.name}, {option}") from error


class ScoredRun(Run):
    """A run that scores the attention heads of its model whenever it is evaluated.

    Attributes:
        scores: importance before the training and at each evaluation.
    """

    options: ScoreOptions
    scores: list[Importance]

    @classmethod
    def of(cls, run: Run, options: ScoreOptions) -> ScoredRun:
        """Return a view of a run: its model, rows and process are the same."""
        scored = cls.__new__(cls)
        vars(scored).update(vars(run), options=options, scores=[])
        return scored

    def score(self) -> None:
        """Score the attention heads of the model as it is now."""
        modules = [module for module in self.model.modules() if module.training]
        self.model.eval()
        self.scores.append(score_model(self, self.options))
        for module in modules:
            module.training = True

    def evaluate(self, role: str = "evaluate", limit: int | None = None, **settings: Any) -> dict[str, Json]:
        """Score the attention heads, then evaluate."""
        self.score()
        return super().evaluate(role, limit, **settings)


def concentration(scores: Mapping[str, list[float]] | list[float]) -> float:
    """Return the Gini coefficient of scores: 0 where all are alike, near 1 where one has everything."""
    values = sorted(scores if isinstance(scores, list) else [value for part in scores.values() for value in part])
    total, count = sum(values), len(values)
    if not count or total <= 0:
        return 0.0
    weighted = sum((index + 1) * value for index, value in enumerate(values))
    return 2 * weighted / (count * total) - (count + 1) / count


def _summary(scores: list[Importance]) -> dict[str, Json]:
    """Concentration of each score, and its rank correlation with the last one."""
    from topwork_analyses.statistics.correlations import coefficient

    flat = [
        [value for layer in importance.layers for value in layer.scores if value is not None] for importance in scores
    ]
    lines = []
    for index, values in enumerate(flat):
        agreement = coefficient(values, flat[-1], "spearman")
        line: dict[str, Json] = {"scored": index, "concentration": concentration(values)}
        lines.append(line | {"agreement with the last": agreement, "mean": sum(values) / len(values)})
    series = {
        name: [[line["scored"], line[name]] for line in lines] for name in ("concentration", "agreement with the last")
    }
    return {
        "scored": len(scores),
        "concentration_before": lines[0]["concentration"],
        "concentration_after": lines[-1]["concentration"],
        "agreement": lines[-2]["agreement with the last"] if len(lines) > 1 else None,
        "tables": {"Importance over training": lines},
        "curves": [{"title": "Importance over training", "x": "evaluation", "series": series}],
        "layers": scores[-1].json()["layers"],
        "method": scores[-1].method,
    }
