"""Base class of the tasks that put labels on rows: text-, image- and audio-classification.

Entry point: `Classifier`. A subclass says what its inputs are: columns, processors, `encode`, `collate`, `logits`.
Options, label names, class weights, losses, predictions and metrics are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator
from typing_extensions import override

from topwork import (
    Base,
    Batch,
    Json,
    Metric,
    OutputKind,
    OutputNames,
    Picture,
    Row,
    State,
    Task,
    TaskOptions,
    UsageError,
)
from topwork_tasks._classification.labels import LABEL_NAMES_HELP, LabelNames, label_config
from topwork_tasks._classification.loss import classification_loss, learn_weights
from topwork_tasks._classification.metric import ClassificationMetric
from topwork_tasks._classification.options import HeadDropout, LabelSmoothing, training_smoothing
from topwork_tasks._classification.scores import LabelScores, draw_labels, logits_to_scores
from topwork_tasks._classification.targets import Kind, Targets, learn_targets
from topwork_tasks._classification.thresholds import THRESHOLD_HELP, LabelThreshold, best_thresholds, thresholds_of

if TYPE_CHECKING:
    import torch
    from torch import nn

_PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
#: with more labels than this, the metric also counts truths among this many best
_TOP = 5


class ClassifierOptions(TaskOptions):
    """Options that all classifiers have."""

    multi_label: bool | None = Field(None, description="rows have lists of labels; by default as the base was trained")
    label_names: LabelNames = Field(None, description=LABEL_NAMES_HELP)
    label_separator: str | None = Field(
        None, min_length=1, description="between several labels in a cell of a table; by default found in the column"
    )
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = Field(
        None, description="weights of the labels in the loss: `balanced`, or by name"
    )
    label_smoothing: LabelSmoothing = 0.0
    top_k: PositiveInt | Literal["all"] | None = Field(
        None, description="labels in a prediction, or `all`; by default as many as the Hub's pipeline of the task gives"
    )
    threshold: LabelThreshold = Field(None, description=THRESHOLD_HELP)
    dropout: HeadDropout = 0.1

    @field_validator("label_names")
    @classmethod
    def _names_differ(cls, names: Any) -> Any:
        if isinstance(names, list) and len(set(names)) != len(names):
            raise ValueError("a name stands twice")
        return names

    @model_validator(mode="after")
    def _one_label(self) -> ClassifierOptions:
        if self.label_smoothing and (self.multi_label or getattr(self, "regression", False)):
            raise ValueError("`label_smoothing` is for one label a row")
        return self


class Classifier(Task):
    """Put labels on rows.

    Class attributes:
        HEAD: auto classes of transformers for the task.
        usual_top: labels in a prediction by default ("single"); None for all.
    """

    HEAD: ClassVar[tuple[str, ...]]
    usual_top: ClassVar[int | None]
    state_types: ClassVar[Mapping[str, Any]] = {
        "kind": Kind,
        "label_names": OutputNames,
        "declared": OutputNames | None,
        "class_weights": list[NonNegativeFloat] | None,
        "token_changes": dict[str, Any],
        "inputs": list[str],
        "spec_augment": dict[str, Any],
        "pixel_range": list[float] | None,
    }

    # ------------------------------------------------------------------ once

    @classmethod
    def learn_labels(cls, rows: Any, base: Base, options: Any) -> tuple[dict[str, Json], list[str]]:
        """Return what the task's state holds of labels, and lines for the log.

        Raises:
            DataError: rows without usable labels.
            UsageError: options that do not fit the kind of the targets.
        """
        kind = cls.target_kind(base, options)
        if kind != "single" and options.label_smoothing:
            raise UsageError("`label_smoothing` is for one label a row", place="task", hint="leave it out")
        notes: list[str] = []
        only = rows.select_columns(["label"]) if _may_select(rows) else rows
        targets = learn_targets(only, kind, base, cls.HEAD, options.label_names, options.label_separator, notes)
        weights = learn_weights(options.class_weights, only, targets)
        return {**targets.values(), "class_weights": weights}, notes

    @classmethod
    def target_kind(cls, base: Base, options: Any) -> Kind:
        """Return the kind that the options say; if they say nothing, that of the checkpoint's trained task head."""
        if getattr(options, "regression", False):
            return "regression"
        if options.multi_label is not None:
            return "multi" if options.multi_label else "single"
        trained = base.trained_labels(*cls.HEAD)
        problem = getattr(base.config, "problem_type", None)
        if problem == _PROBLEMS["multi"]:
            return "multi"
        if trained is None or "regression" not in type(options).model_fields:
            return "single"
        return "regression" if problem == "regression" or (problem is None and len(trained) == 1) else "single"

    def __init__(self, bases: Mapping[str, Base], options: Any, state: State) -> None:
        super().__init__(bases, options, state)
        self.targets = Targets.from_values(state.values)
        self.kind: Kind = self.targets.kind
        self.names: list[str] = self.targets.names
        if options.threshold is not None and self.kind != "multi":
            raise UsageError(
                "`threshold` is for rows with several labels; these have one", place="task", hint="leave it out"
            )
        self.thresholds = thresholds_of(options.threshold, self.names)

    @property
    def label_names(self) -> list[str]:
        """Label names in the order of the model's outputs."""
        return self.names

    def head_config(self) -> dict[str, Any]:
        """Return the config entries of a native task head: names of labels and the kind of problem."""
        return {**label_config(self.names), "problem_type": _PROBLEMS[self.kind]}

    # ------------------------------------------------------------------ tensors -> numbers

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits of a batch, [items, labels]."""
        raise NotImplementedError

    @override
    def output_kinds(self) -> dict[str, OutputKind]:
        kinds: dict[Kind, OutputKind] = {"single": "classes", "multi": "labels", "regression": "values"}
        return {"logits": kinds[self.kind]}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self._losses(model, batch).mean()

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return batch.mean_by_row(self._losses(model, batch))

    def _losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        smoothing = training_smoothing(self.options, batch)
        weights = self.state.values["class_weights"]
        logits = self.logits(model, batch)
        return classification_loss(logits, batch.inputs["labels"], self.kind, weights, "none", smoothing)

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        scores = logits_to_scores(self.logits(model, batch), self.kind)
        return [self.prediction(entry) for entry in scores]

    def prediction(self, scores: Sequence[float]) -> LabelScores:
        """Return the prediction of a row from the scores of all labels."""
        top = self.options.top_k
        if top is None:
            top = None if self.kind == "multi" and self.usual_top == 1 else self.usual_top
        least = None if self.options.threshold is None else self.thresholds
        return LabelScores(scores, self.names, None if top == "all" else top, least)

    # ------------------------------------------------------------------ predictions -> readers

    def metric(self) -> ClassificationMetric:
        top = _TOP if self.kind == "single" and len(self.names) > _TOP else None
        return ClassificationMetric(self.targets, top=top, threshold=self.options.threshold)

    @override
    def choose_thresholds(self, metric: Metric) -> dict[str, Json] | None:
        if self.kind != "multi" or not isinstance(metric, ClassificationMetric):
            return None
        chosen = best_thresholds(*metric.scores_and_truth())
        return {"threshold": dict(zip(self.names, chosen))}

    def drawn(self, row: Row, prediction: Any, shown: Sequence[tuple[str, str]] = (), image: Any = None) -> Picture:
        """Return the picture of a row, its prediction and its truth."""
        return draw_labels(row, prediction, self.targets, shown, image)


def _may_select(rows: Any) -> bool:
    return hasattr(rows, "select_columns") and "label" in (rows.column_names or ())
