"""What text-, image- and audio-classification share: class weights, the loss and predictions; and, from `_labels`,
label names and targets; from `_classification_metric`, the metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from topwork import Picture, Row, TopworkError
from topwork_tasks._classification.labels import (
    TEXT_HEAD,
    Kind,
    class_names,
    label_number,
    learn_labels,
    target,
    target_tensor,
)
from topwork_tasks._classification.metric import ClassificationMetric

if TYPE_CHECKING:
    import torch

__all__ = [
    "TEXT_HEAD",
    "ClassificationMetric",
    "Kind",
    "LabelScores",
    "class_names",
    "classification_loss",
    "draw_labels",
    "label_number",
    "learn_labels",
    "learn_weights",
    "logits_to_scores",
    "target",
    "target_tensor",
]

# ---------------------------------------------------------------- class weights and the loss


def learn_weights(
    wanted: Literal["balanced"] | Mapping[str, float] | None,
    rows: Any,
    kind: Kind,
    names: Sequence[str],
    declared: Sequence[str] | None,
) -> list[float] | None:
    """One weight per label: given by name (others 1), or "balanced": rows / (labels * rows with this label), as
    scikit-learn has it; a label without rows gets 1."""
    if wanted is None:
        return None
    if kind == "regression":
        raise TopworkError("a regression has no classes to weigh", hint="leave `class_weights` out")
    if isinstance(wanted, Mapping):
        weights = [1.0] * len(names)
        for name, weight in wanted.items():
            weights[label_number(name, names, declared, column="class_weights")] = float(weight)
        return weights
    counts, total = [0] * len(names), 0
    for number, row in enumerate(rows if rows is not None else ()):
        found = target(row, kind, names, declared, number)
        total += 1
        for label in found if isinstance(found, list) else [int(found)]:
            counts[label] += 1
    return [total / (len(names) * count) if count else 1.0 for count in counts]


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    kind: Kind,
    weights: Sequence[float] | None = None,
    reduction: Literal["mean", "none"] = "mean",
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross entropy, binary cross entropy or squared error, in float32.

    Args:
        logits: [rows, labels]; [rows, 1] for a regression.
        labels: as `target_tensor` makes them; "single" also takes probabilities [rows, labels] (mixup).
        weights: per label. A row's loss is multiplied by its label's weight, and the mean is over rows: so the loss of
            a batch is the mean of its rows' losses (torch's weighted mean would divide by the sum of weights instead).
        reduction: "none" answers [rows].
        smoothing: label smoothing of Szegedy et al. 2016 (arXiv 1512.00567, section 7), "single" only.
    """
    import torch
    from torch.nn import functional

    logits = logits.float()
    weight = None if weights is None else torch.tensor(list(weights), dtype=torch.float32, device=logits.device)
    if kind == "single":
        losses = functional.cross_entropy(logits, labels, weight=weight, reduction="none", label_smoothing=smoothing)
    elif kind == "multi":
        losses = functional.binary_cross_entropy_with_logits(
            logits, labels.float(), weight=weight, reduction="none"
        ).mean(-1)
    else:
        losses = (logits.reshape(-1) - labels.float().reshape(-1)).square()
    return losses if reduction == "none" else losses.mean()


class LabelScores(list):
    """A prediction: `[{"label", "score"}, ...]`, best first, perhaps cut to the best few; `scores` has all of them, in
    the order of the label names."""

    scores: tuple[float, ...]

    def __init__(self, scores: Sequence[float], names: Sequence[str], top: int | None) -> None:
        self.scores = tuple(float(score) for score in scores)
        order = sorted(range(len(names)), key=lambda number: -self.scores[number])
        super().__init__({"label": names[number], "score": self.scores[number]} for number in order[:top])

    def __reduce__(self) -> tuple:
        return _restore, (list(self), self.scores)


def _restore(entries: list[dict[str, Any]], scores: tuple[float, ...]) -> LabelScores:
    made = LabelScores.__new__(LabelScores)
    made.extend(entries)
    made.scores = scores
    return made


def logits_to_scores(logits: torch.Tensor, kind: Kind) -> list[list[float]]:
    """[rows, labels] -> scores as the Hub's pipelines give them: softmax, sigmoid, or the number itself."""
    logits = logits.detach().float().cpu()
    if kind == "single":
        return logits.softmax(-1).tolist()
    return (logits.sigmoid() if kind == "multi" else logits).tolist()


def draw_labels(
    row: Row,
    prediction: Any,
    kind: Kind,
    names: Sequence[str],
    declared: Sequence[str] | None,
    shown: Sequence[tuple[str, str]] = (),
    image: Any = None,
    column: str = "label",
) -> Picture:
    """The row, what was predicted and what is true. Badness: the probability that the truth did not get (single), the
    largest error of a label's probability (multi), the absolute error (regression)."""
    best = ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in prediction[:3])
    if kind == "regression":
        best = f"{prediction[0]['score']:.3g}"
    if row.get(column) is None:
        return Picture(f"predicted {best}", 0.0, image, [*shown, (" -> ", ""), (best, "predicted")] if shown else ())
    truth = target(row, kind, names, declared, column=column)
    if kind == "regression":
        told, badness = f"{truth:.3g}", abs(float(prediction[0]["score"]) - float(truth))  # type: ignore[arg-type]
    else:
        numbers = truth if isinstance(truth, list) else [int(truth)]
        told = ", ".join(names[number] for number in numbers) or "no label"
        given = {entry["label"]: entry["score"] for entry in prediction}
        scores = getattr(prediction, "scores", None) or [given.get(name, 0.0) for name in names]
        wanted = [float(number in numbers) for number in range(len(names))]
        errors = [abs(score - want) for score, want in zip(scores, wanted)]
        badness = max(errors) if kind == "multi" else errors[numbers[0]]
    mark = "right" if badness < 0.5 else "wrong"
    pieces = [*shown, (" -> ", ""), (best, mark), (" ", ""), (told, "truth")] if shown else ()
    return Picture(f"predicted {best}, truth {told}", badness, image, pieces)
