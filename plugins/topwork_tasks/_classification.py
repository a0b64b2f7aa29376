"""What text-, image- and audio-classification share: class weights, the loss, predictions and the metric; and, from
`_labels`, label names and targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from topwork import Json, Metric, Picture, Row, TopworkError
from topwork_tasks._labels import (
    TEXT_HEAD,
    Kind,
    class_names,
    label_number,
    learn_labels,
    target,
    target_tensor,
)

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
        raise TopworkError("a regression has no classes to weigh", mend="leave `class_weights` out")
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


def all_scores(prediction: Any, names: Sequence[str]) -> list[float]:
    """The score of every label of a prediction, also of one that was read back from JSON."""
    scores = getattr(prediction, "scores", None)
    if scores is not None:
        return list(scores)
    by_name = {entry["label"]: float(entry["score"]) for entry in prediction}
    if set(by_name) != set(names):
        raise TopworkError(
            "a prediction that was cut to its best labels has no score for the others", mend="set `top_k` to all"
        )
    return [by_name[name] for name in names]


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


# ---------------------------------------------------------------- the metric


class ClassificationMetric(Metric):
    """Accuracy, F1, correlation: what the kind asks for, by scikit-learn and scipy.

    Args:
        label_names: in the order of the model's outputs.
        kind: "single", "multi" or "regression".
        declared: names of the data's integers (`class_names`), None when they are names themselves.
        top: also count a row as right when its label is among this many best ("single").
        column: of the target.

    Keys: single: accuracy, macro_f1, micro_f1, mcc (and top<k>_accuracy); multi: subset_accuracy, micro_f1, macro_f1,
    mean_average_precision (labels scored >= 0.5 count as predicted); regression: r2, pearson, spearman, mse.
    Tables: `per_label` (precision, recall, f1, support) and, for single, `confusion` (rows truth, columns predicted).
    """

    def __init__(
        self,
        label_names: Sequence[str],
        kind: Kind = "single",
        *,
        declared: Sequence[str] | None = None,
        top: int | None = None,
        column: str = "label",
    ) -> None:
        self.names, self.kind, self.declared, self.top, self.column = list(label_names), kind, declared, top, column
        self.truths: list[Any] = []
        self.guesses: list[Any] = []
        self.among_top = 0
        if kind == "single":
            self.keys = ("accuracy", "macro_f1", "micro_f1", "mcc", *([f"top{top}_accuracy"] if top else []))
        elif kind == "multi":
            self.keys = ("subset_accuracy", "micro_f1", "macro_f1", "mean_average_precision")
        else:
            self.keys = ("r2", "pearson", "spearman", "mse")
        self.primary = "micro_f1" if kind == "multi" else self.keys[0]

    def update(self, row: Row, prediction: Any) -> None:
        truth = target(row, self.kind, self.names, self.declared, column=self.column)
        self.truths.append(truth)
        if self.kind == "single":
            self.guesses.append(self.names.index(prediction[0]["label"]))
            if self.top:
                scores = all_scores(prediction, self.names)
                better = sum(score > scores[truth] for score in scores)  # type: ignore[index]
                self.among_top += better < self.top
        elif self.kind == "multi":
            self.guesses.append(all_scores(prediction, self.names))
        else:
            self.guesses.append(float(prediction[0]["score"]))

    def merge(self, other: ClassificationMetric) -> None:
        self.truths += other.truths
        self.guesses += other.guesses
        self.among_top += other.among_top

    def result(self) -> dict[str, Json]:
        if not self.truths:
            return dict.fromkeys(self.keys, math.nan)
        found = {"single": self._single, "multi": self._multi, "regression": self._regression}[self.kind]()
        return {key: value if isinstance(value, list | dict) else float(value) for key, value in found.items()}

    def _single(self) -> dict[str, Json]:
        from sklearn import metrics

        truth, guess = self.truths, self.guesses
        confusion = metrics.confusion_matrix(truth, guess, labels=range(len(self.names)))
        result: dict[str, Json] = {
            "accuracy": metrics.accuracy_score(truth, guess),
            "macro_f1": metrics.f1_score(truth, guess, average="macro", zero_division=0),
            "micro_f1": metrics.f1_score(truth, guess, average="micro", zero_division=0),
            "mcc": metrics.matthews_corrcoef(truth, guess),
            "per_label": self._per_label(truth, guess),
            "confusion": {"labels": self.names, "counts": confusion.tolist()},
        }
        if self.top:
            result[f"top{self.top}_accuracy"] = self.among_top / len(truth)
        return result

    def _multi(self) -> dict[str, Json]:
        import numpy
        from sklearn import metrics

        scores = numpy.array(self.guesses)
        truth = numpy.zeros_like(scores, dtype=int)
        for row, labels in enumerate(self.truths):
            truth[row, labels] = 1
        guess = (scores >= 0.5).astype(int)
        occurring = [label for label in range(len(self.names)) if truth[:, label].any()]
        precisions = [metrics.average_precision_score(truth[:, label], scores[:, label]) for label in occurring]
        return {
            "subset_accuracy": metrics.accuracy_score(truth, guess),
            "micro_f1": metrics.f1_score(truth, guess, average="micro", zero_division=0),
            "macro_f1": metrics.f1_score(truth, guess, average="macro", zero_division=0),
            "mean_average_precision": numpy.mean(precisions) if precisions else math.nan,
            "per_label": self._per_label(truth, guess),
        }

    def _per_label(self, truth: Any, guess: Any) -> list[dict[str, Json]]:
        from sklearn.metrics import precision_recall_fscore_support

        columns = precision_recall_fscore_support(truth, guess, labels=range(len(self.names)), zero_division=0)
        keys = ("precision", "recall", "f1", "support")
        rows = zip(self.names, *(column.tolist() for column in columns))
        return [{"label": name, **dict(zip(keys, values))} for name, *values in rows]

    def _regression(self) -> dict[str, Json]:
        import numpy
        from scipy import stats

        truth, guess = numpy.array(self.truths), numpy.array(self.guesses)
        error, spread = numpy.square(truth - guess), numpy.square(truth - truth.mean())
        defined = len(truth) > 1 and truth.std() > 0 and guess.std() > 0  # correlations of constants are undefined
        return {
            "r2": 1 - error.sum() / spread.sum() if spread.sum() > 0 else math.nan,
            "pearson": stats.pearsonr(truth, guess).statistic if defined else math.nan,
            "spearman": stats.spearmanr(truth, guess).statistic if defined else math.nan,
            "mse": error.mean(),
        }
