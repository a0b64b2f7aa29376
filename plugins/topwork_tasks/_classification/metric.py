"""The metric of text-, image- and audio-classification: accuracy, F1, correlations over any number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Json, Metric, Row
from topwork_tasks._classification import calibration
from topwork_tasks._classification.labels import Declared
from topwork_tasks._classification.scores import all_scores
from topwork_tasks._classification.targets import Kind, Targets
from topwork_tasks._classification.thresholds import thresholds_of

if TYPE_CHECKING:
    import numpy as np


#: labels up to which there is a confusion matrix: of 5,000 it would be 25 million numbers of JSON
MOST_CONFUSED = 1000


class ClassificationMetric(Metric):
    """Accuracy, F1 or correlations, by scikit-learn and scipy.

    Args:
        targets: reader of the rows' targets; or label names in the order of the model's outputs, with the rest.
        kind: "single", "multi" or "regression".
        declared: what the data's integers stand for.
        top: also count a row as right when its label is among this many best ("single").
        column: of the target.
        threshold: least score of a label that counts as predicted, for all or by name ("multi"); None for .5.

    Keys: single: accuracy, macro_f1, micro_f1, mcc, calibration_error (and top<k>_accuracy); multi: subset_accuracy,
    micro_f1, macro_f1, mean_average_precision, calibration_error (of the probability of each label); regression: r2,
    pearson, spearman, mse.
    Tables: `per_label` (precision, recall, f1, support) and, for single with `MOST_CONFUSED` labels at most,
    `confusion` (rows truth, columns predicted).
    """

    def __init__(
        self,
        targets: Targets | Sequence[str],
        kind: Kind = "single",
        *,
        declared: Declared = None,
        top: int | None = None,
        column: str = "label",
        threshold: float | Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(targets, Targets):
            targets = Targets(kind, list(targets), declared, column=column)
        self.targets, self.names, self.kind, self.top = targets, targets.names, targets.kind, top
        self.truths: list[Any] = []
        self.guesses: list[Any] = []
        self.among_top = 0
        self.thresholds = thresholds_of(threshold, self.names)
        self.bins = calibration.new_bins()
        if self.kind == "single":
            more = [f"top{top}_accuracy"] if top else []
            self.keys = ("accuracy", "macro_f1", "micro_f1", "mcc", "calibration_error", *more)
        elif self.kind == "multi":
            self.keys = ("subset_accuracy", "micro_f1", "macro_f1", "mean_average_precision", "calibration_error")
        else:
            self.keys = ("r2", "pearson", "spearman", "mse")
        self.primary = "micro_f1" if self.kind == "multi" else self.keys[0]

    def update(self, row: Row, prediction: Any) -> None:
        truth = self.targets.of(row)
        self.truths.append(truth)
        if self.kind == "single":
            self.guesses.append(self.names.index(prediction[0]["label"]))
            calibration.add(self.bins, float(prediction[0]["score"]), self.guesses[-1] == truth)
            if self.top:
                scores = all_scores(prediction, self.names)
                better = sum(score > scores[truth] for score in scores)  # type: ignore[index]
                self.among_top += better < self.top
        elif self.kind == "multi":
            self.guesses.append(all_scores(prediction, self.names))
            for index, score in enumerate(self.guesses[-1]):
                calibration.add(self.bins, score, index in self.truths[-1])
        else:
            self.guesses.append(float(prediction[0]["score"]))

    def merge(self, metric: ClassificationMetric) -> None:
        self.truths += metric.truths
        self.guesses += metric.guesses
        self.among_top += metric.among_top
        self.bins = calibration.merged(self.bins, metric.bins)

    def result(self) -> dict[str, Json]:
        if not self.truths:
            return dict.fromkeys(self.keys, math.nan)
        values = {"single": self._single, "multi": self._multi, "regression": self._regression}[self.kind]()
        return {key: value if isinstance(value, list | dict) else float(value) for key, value in values.items()}

    def primary_value(self) -> float:
        if self.primary != "accuracy" or not self.truths:
            return super().primary_value()
        return sum(guess == truth for guess, truth in zip(self.guesses, self.truths)) / len(self.truths)

    def doubts(self) -> list[str]:
        """Return that all predictions are one label although the rows have several."""
        if self.kind != "single" or len(set(self.truths)) < 2 or len(set(self.guesses)) != 1:
            return []
        label = self.names[self.guesses[0]]
        share = self.truths.count(self.guesses[0]) / len(self.truths)
        return [f"all {len(self.guesses)} predictions are `{label}`, which {share:.0%} of the rows are"]

    def _single(self) -> dict[str, Json]:
        from sklearn import metrics

        truth, guess = self.truths, self.guesses
        result: dict[str, Json] = {
            "accuracy": metrics.accuracy_score(truth, guess),
            "macro_f1": metrics.f1_score(truth, guess, average="macro", zero_division=0),
            "micro_f1": metrics.f1_score(truth, guess, average="micro", zero_division=0),
            "mcc": metrics.matthews_corrcoef(truth, guess),
            "calibration_error": calibration.calibration_error(self.bins),
            "per_label": self._per_label(truth, guess),
        }
        if len(self.names) <= MOST_CONFUSED:
            confusion = metrics.confusion_matrix(truth, guess, labels=range(len(self.names)))
            result["confusion"] = {"labels": self.names, "counts": confusion.tolist()}
        if self.top:
            result[f"top{self.top}_accuracy"] = self.among_top / len(truth)
        return result

    def scores_and_truth(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the score of each label of each row, and 1 where the row has the label; both [rows, labels]."""
        import numpy

        scores = numpy.array(self.guesses).reshape(-1, len(self.names))
        truth = numpy.zeros_like(scores, dtype=int)
        for row, labels in enumerate(self.truths):
            truth[row, labels] = 1
        return scores, truth

    def _multi(self) -> dict[str, Json]:
        import numpy
        from sklearn import metrics

        scores, truth = self.scores_and_truth()
        guess = (scores >= numpy.array(self.thresholds)).astype(int)
        occurring = [label for label in range(len(self.names)) if truth[:, label].any()]
        precisions = [metrics.average_precision_score(truth[:, label], scores[:, label]) for label in occurring]
        return {
            "subset_accuracy": metrics.accuracy_score(truth, guess),
            "micro_f1": metrics.f1_score(truth, guess, average="micro", zero_division=0),
            "macro_f1": metrics.f1_score(truth, guess, average="macro", zero_division=0),
            "mean_average_precision": numpy.mean(precisions) if precisions else math.nan,
            "calibration_error": calibration.calibration_error(self.bins),
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
