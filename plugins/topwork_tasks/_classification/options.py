"""Types of options that tasks with labels share: one range, one meaning and one error for all of them.

Whatever the task, `LabelSmoothing` is in force in mode "train" alone: see `training_smoothing`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from topwork import Batch

LabelSmoothing = Annotated[
    float, Field(ge=0, lt=1, description="share of the target spread over all outputs, in training")
]
HeadDropout = Annotated[float, Field(ge=0, lt=1, description="of the generic task head")]


def training_smoothing(options: Any, batch: Batch) -> float:
    """Return the label smoothing of a batch: that of the options in training, else 0.

    Evaluation and the scores of attention heads use the unchanged loss.

    Args:
        options: of the task, with `label_smoothing`.
        batch: knows the mode that it was made for.
    """
    return options.label_smoothing if batch.mode == "train" else 0.0
