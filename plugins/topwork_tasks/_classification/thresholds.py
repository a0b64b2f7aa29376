"""Thresholds of scores: which labels count as predicted where rows may have several, and which thresholds serve best.

Entry points: `thresholds_of` reads the option, `best_thresholds` and `best_threshold` choose from scores and truths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from topwork import UsageError, nearest

if TYPE_CHECKING:
    import numpy as np

#: a score from which on a label counts as predicted, where nothing else is said
HALF = 0.5
#: the option `threshold` of tasks whose rows may have several labels
LabelThreshold = Annotated[float, Field(ge=0, lt=1)] | dict[str, Annotated[float, Field(ge=0, lt=1)]] | None
THRESHOLD_HELP = (
    "multi_label: least score of a predicted label, for all or by name; predictions then list those alone. By default "
    "they list every label, and metrics count from .5; the stage `choose_thresholds` chooses them"
)


def thresholds_of(option: float | Mapping[str, float] | None, names: Sequence[str]) -> list[float]:
    """Return the threshold of each label.

    Args:
        option: one for all labels, or by name; labels that it leaves out have .5.
        names: of the labels, in order.

    Raises:
        UsageError: the option names a label that is none.
    """
    if not isinstance(option, Mapping):
        return [HALF if option is None else option] * len(names)
    for name in option:
        if name not in names:
            raise UsageError(f"unknown label {name!r}{nearest(name, names)}", place="task.threshold")
    return [option.get(name, HALF) for name in names]


def best_thresholds(scores: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return for each label the threshold with the largest F1; .5 where it is as good as any, or nothing is known.

    A threshold lies in the middle between two neighbouring scores. Of equally good ones, the one nearest to .5 is
    taken, so that few rows move a threshold little.

    Args:
        scores: [rows, labels].
        truth: 1 where a row has the label; [rows, labels].
    """
    columns = zip(scores.T, truth.T, strict=True)
    return [best_threshold(of_label, right, int(right.sum())) for of_label, right in columns]


def best_threshold(scores: np.ndarray, right: np.ndarray, positives: int) -> float:
    """Return the threshold with the largest F1 of one list of scores; see `best_thresholds`.

    Args:
        scores: of what may be predicted.
        right: 1 where that is true.
        positives: how many are true, those without a score among them.
    """
    import numpy as np

    if not positives or not len(scores):
        return HALF
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order].astype(float), right[order].cumsum()
    last = np.append(ranked[1:] < ranked[:-1], True)  # equal scores are predicted together
    f1 = np.where(last, 2 * right / (np.arange(1, len(ranked) + 1) + positives), -1.0)
    below = np.append(ranked[1:], max(0.0, 2 * ranked[-1] - 1))
    best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=1e-12, atol=0))
    # every threshold in (below, ranked] predicts the same: .5 itself where it lies inside
    if any(below[index] < HALF <= ranked[index] for index in best):
        return HALF
    middles = (below[best] + ranked[best]) / 2
    return float(middles[np.argmin(abs(middles - HALF))])
