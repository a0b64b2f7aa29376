"""Predictions of classifiers, with the score of every label, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topwork import Json, Picture, Row, TopworkError
from topwork_tasks._classification.targets import Kind, Targets

if TYPE_CHECKING:
    import torch


class LabelScores(list):
    """A prediction `[{"label", "score"}, ...]`, best first, perhaps cut to the best few, or to scores that count.

    Attributes:
        scores: of all labels, in the order of the label names.
    """

    scores: tuple[float, ...]

    def __init__(
        self, scores: Sequence[float], names: Sequence[str], top: int | None, least: Sequence[float] | None = None
    ) -> None:
        self.scores = tuple(float(score) for score in scores)
        order = sorted(range(len(names)), key=lambda index: -self.scores[index])
        if least is not None:
            order = [index for index in order if self.scores[index] >= least[index]]
        super().__init__({"label": names[index], "score": self.scores[index]} for index in order[:top])


def logits_to_scores(logits: torch.Tensor, kind: Kind) -> list[list[float]]:
    """Return scores as the Hub's pipelines give them: softmax, sigmoid, or the number itself.

    Args:
        logits: [rows, labels].
        kind: "single", "multi" or "regression": the three functions, in this order.
    """
    logits = logits.detach().float().cpu()
    if kind == "single":
        return logits.softmax(-1).tolist()
    return (logits.sigmoid() if kind == "multi" else logits).tolist()


def all_scores(prediction: Any, names: Sequence[str]) -> list[float]:
    """Return the score of every label of a prediction, also of one that was read back from JSON.

    Raises:
        TopworkError: the prediction was cut to its best labels.
    """
    scores = getattr(prediction, "scores", None)
    if scores is not None:
        return list(scores)
    by_name = {entry["label"]: float(entry["score"]) for entry in prediction}
    if set(by_name) != set(names):
        raise TopworkError(
            "a prediction that was cut to its best labels has no score for the others", hint="set `top_k` to all"
        )
    return [by_name[name] for name in names]


_MEASURES = {"regression": "absolute error", "multi": "error of the probability of a label"}


def draw_labels(
    row: Row, prediction: Any, targets: Targets, shown: Sequence[tuple[str, str]] = (), image: Any = None
) -> Picture:
    """Return a picture of a row, its prediction and its truth.

    Badness is the probability that the truth did not get (single), the largest error of a label's probability (multi)
    or the absolute error (regression).

    Args:
        row: the row, perhaps with its truth.
        prediction: of the row.
        targets: the labels.
        shown: pieces of text that stand for the row.
        image: that stands for the row.
    """
    facts: dict[str, Json] = {}
    if prediction:
        facts = {"prediction": prediction[0]["label"], "confidence": prediction[0]["score"]}
    best = ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in prediction[:3])
    if targets.kind == "regression":
        best, facts = f"{prediction[0]['score']:.3g}", {"prediction": prediction[0]["score"]}
    if shown:
        facts["shown"] = "".join(piece for piece, _ in shown)
    if row.get(targets.column) is None:
        pieces = [*shown, (" -> ", ""), (best, "predicted")] if shown else []
        return Picture(f"predicted {best}", 0.0, image, pieces, facts=facts)
    truth = targets.of(row)
    if targets.kind == "regression":
        text, badness = f"{truth:.3g}", abs(float(prediction[0]["score"]) - float(truth))  # type: ignore[arg-type]
        facts = {"truth": float(truth), **facts}  # type: ignore[arg-type]
    else:
        indices = truth if isinstance(truth, list) else [int(truth)]
        text = ", ".join(targets.names[index] for index in indices) or "no label"
        badness = _badness(prediction, indices, targets)
        facts = {"truth": text, **facts}
    mark = "right" if badness < 0.5 else "wrong"
    pieces = [*shown, (" -> ", ""), (best, mark), (" ", ""), (text, "truth")] if shown else []
    measure = _MEASURES.get(targets.kind, "probability that the truth did not get")
    return Picture(f"predicted {best}, truth {text}", badness, image, pieces, facts=facts, measure=measure)


def _badness(prediction: Any, indices: Sequence[int], targets: Targets) -> float:
    by_name = {entry["label"]: entry["score"] for entry in prediction}
    scores = getattr(prediction, "scores", None) or [by_name.get(name, 0.0) for name in targets.names]
    errors = [abs(score - (index in indices)) for index, score in enumerate(scores)]
    return max(errors) if targets.kind == "multi" else errors[indices[0]]
