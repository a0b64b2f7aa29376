"""Class weights and the loss of classifiers.

Entry points: `learn_weights`, `classification_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, TopworkError, UsageError
from topwork_tasks._classification.targets import Kind, Targets

if TYPE_CHECKING:
    import torch


def learn_weights(
    option: Literal["balanced"] | Mapping[str, float] | None, rows: Any, targets: Targets
) -> list[float] | None:
    """Return one weight for each label, or None for no weights.

    Args:
        option: weights by name (1 for the others), or "balanced": rows / (labels * rows with this label), as
            scikit-learn has it; a label without rows gets 1.
        rows: training rows, for "balanced".
        targets: the labels.

    Raises:
        UsageError: a weight for a label that there is not.
        TopworkError: a regression has no classes.
    """
    if option is None:
        return None
    if targets.kind == "regression":
        raise TopworkError("a regression has no classes to weigh", hint="leave `class_weights` out")
    if isinstance(option, Mapping):
        weights = [1.0] * len(targets.names)
        for name, weight in option.items():
            try:
                weights[targets.index(name)] = float(weight)
            except DataError as error:  # the fault is the option's, not a row's
                raise UsageError(error.cause, place="task.class_weights", hint=error.hint) from error
        return weights
    counts, total = [0] * len(targets.names), 0
    for index, row in enumerate(rows if rows is not None else ()):
        target = targets.of(row, index)
        total += 1
        for label in target if isinstance(target, list) else [int(target)]:
            counts[label] += 1
    return [total / (len(targets.names) * count) if count else 1.0 for count in counts]


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    kind: Kind,
    weights: Sequence[float] | None = None,
    reduction: Literal["mean", "none"] = "mean",
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return cross entropy, binary cross entropy or squared error, computed in float32.

    Args:
        logits: [rows, labels]; [rows, 1] for a regression.
        labels: as `Targets.tensor` makes them; "single" also takes probabilities [rows, labels] (mixup).
        kind: "single", "multi" or "regression": the three losses, in this order.
        weights: per label. A row's loss is multiplied by its label's weight, and the mean is over rows: so the loss of
            a batch is the mean of its rows' losses (torch's weighted mean would divide by the sum of weights instead).
        reduction: "none" returns [rows].
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
