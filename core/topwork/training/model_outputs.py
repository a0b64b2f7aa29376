"""Outputs of two models on one batch, compared field by field.

Entry point: `compare`, by the kinds that `Task.output_kinds` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from topwork.errors import UsageError
from topwork.items import Batch

if TYPE_CHECKING:
    from topwork.task import OutputKind


def compare(
    mine: Any, theirs: Any, kinds: Mapping[str, OutputKind], batch: Batch, temperature: float = 1.0
) -> torch.Tensor:
    """Return how far the outputs of a student are from those of its teacher, [items]; 0 where they are equal.

    Args:
        mine: output of the student: a dict of tensors, an object with such attributes, or one tensor.
        theirs: of the teacher.
        kinds: of the fields that are compared; those that an output lacks are passed over.
        batch: what both were given.
        temperature: of logits.

    Raises:
        UsageError: a field has another shape in the teacher, or there is none.
    """
    distances = []
    for name, kind in kinds.items():
        student, teacher = _field(mine, name), _field(theirs, name)
        if student is None or teacher is None:
            continue
        if student.shape != teacher.shape:
            cause = f"`{name}` is {tuple(student.shape)}, and {tuple(teacher.shape)} of the teacher"
            raise UsageError(cause, place="teacher", hint="a teacher gives outputs of the same shape")
        distances.append(_distance(student.float(), teacher.detach().float(), kind, batch, temperature))
    if not distances:
        cause = f"the model's output has none of {', '.join(kinds)}"
        raise UsageError(cause, place="teacher", hint="the task names its outputs by `output_kinds`")
    return torch.stack(distances).sum(0)


def _field(output: Any, name: str) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output
    value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    return value if isinstance(value, torch.Tensor) else None


def _distance(
    student: torch.Tensor, teacher: torch.Tensor, kind: OutputKind, batch: Batch, temperature: float
) -> torch.Tensor:
    if kind == "values":
        values = (student - teacher).square()
    elif kind == "labels":
        values = _divergence(_both_sides(student / temperature), _both_sides(teacher / temperature)) * temperature**2
    else:
        dim = 1 if kind == "maps" else -1
        if kind == "positions" and (padding := _padding(student, batch)) is not None:
            student, teacher = student.masked_fill(padding, -torch.inf), teacher.masked_fill(padding, -torch.inf)
        values = _divergence(
            (student / temperature).log_softmax(dim).movedim(dim, -1),
            (teacher / temperature).log_softmax(dim).movedim(dim, -1),
        )
        values = values * temperature**2
    return mean_by_item(values, positions_that_count(values, batch))


def mean_by_item(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of [items, positions, ...] for each item, over the positions of a mask: [items]."""
    if values.dim() < 2:
        return values.reshape(-1)
    if mask is None:
        return values.flatten(1).mean(1)
    by_position = values.flatten(2).mean(2) if values.dim() > 2 else values
    return (by_position * mask).sum(1) / mask.sum(1).clamp(min=1)


def _padding(values: torch.Tensor, batch: Batch) -> torch.Tensor | None:
    mask = batch.inputs.get("attention_mask")
    return mask == 0 if isinstance(mask, torch.Tensor) and mask.shape == values.shape else None


def _both_sides(logits: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of yes and no: [..., 2]."""
    log_sigmoid = torch.nn.functional.logsigmoid
    return torch.stack([log_sigmoid(logits), log_sigmoid(-logits)], -1)


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher || student) of log-probabilities over the last dimension; 0 for what the teacher rules out."""
    ruled_out = teacher.isneginf()
    gap = teacher.masked_fill(ruled_out, 0) - student.masked_fill(ruled_out, 0)
    return (teacher.exp() * gap).sum(-1)


def positions_that_count(values: torch.Tensor, batch: Batch) -> torch.Tensor | None:
    """Return which positions of [items, positions, ...] are no padding; None where the batch says nothing of them.

    Where each position has a label, those with labels count, else those of the attention mask.
    """
    decoded = batch.inputs.get("decoder_attention_mask")
    labels, mask = batch.inputs.get("labels"), batch.inputs.get("attention_mask")
    if isinstance(decoded, torch.Tensor) and decoded.shape == values.shape[:2]:
        return decoded != 0
    if isinstance(labels, torch.Tensor) and values.dim() == 2 and labels.shape == values.shape:
        return None if labels.is_floating_point() else labels != -100
    if isinstance(mask, torch.Tensor) and values.dim() > 1 and mask.shape == values.shape[:2]:
        return mask != 0
    return None
