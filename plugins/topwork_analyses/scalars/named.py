"""The scalar of one row that an analysis explains, with its gradient: by name, from what the model returns.

Entry point: `scalar_of_row`. The model is run as for the loss of the row, so that its inputs are those of the task
(teacher forcing for sequences); the outputs of its last run hold logits, boxes or depths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topwork import Batch, Task, UsageError, unknown

if TYPE_CHECKING:
    from topwork_analyses.scalars.options import ScalarOptions

_COORDINATES = ("x", "y", "width", "height")


def scalar_of_row(task: Task, model: nn.Module, batch: Batch, options: ScalarOptions) -> torch.Tensor:
    """Return the number that is explained, a tensor without dimensions; of several items of the row the sum.

    Args:
        task: that the model is for.
        model: in evaluation mode.
        batch: of one row, in mode "loss".
        options: which number.

    Raises:
        UsageError: the outputs of the model have no such number.
    """
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        loss = task.row_losses(model, batch).sum()
    finally:
        handle.remove()
    if options.scalar == "loss":
        return -loss
    if not outputs:
        raise UsageError(f"the loss of task {task.name} does not run the model itself", hint="explain the loss")
    return _named(task, outputs[-1], options)


def _named(task: Task, outputs: Any, options: ScalarOptions) -> torch.Tensor:
    if options.scalar == "depth":
        return _field(outputs, "predicted_depth", options.scalar).mean()
    logits = _field(outputs, "logits", options.scalar)
    label = _label(task, options.label)
    if logits.dim() == 4:
        return _of_maps(logits, label, options)
    if logits.dim() == 2:
        if options.query is not None or options.scalar == "box":
            raise UsageError("the logits are of the whole input: there are no queries", hint="leave `query` out")
        return logits[:, _checked(logits.sum(0).argmax() if label is None else label, logits.shape[-1], "class")].sum()
    query, label = _query(logits, label, options)
    if options.scalar == "logit":
        return logits[:, query, label].sum()
    boxes = _field(outputs, "pred_boxes", options.scalar)
    assert options.coordinate is not None
    return boxes[:, query, _COORDINATES.index(options.coordinate)].sum()


def _query(logits: torch.Tensor, label: int | None, options: ScalarOptions) -> tuple[int, int]:
    """Return the query or position, and the class: as named, else with the highest logit of the first item."""
    first = logits[0].detach()
    label = None if label is None else _checked(label, first.shape[-1], "class")
    if options.query is not None:
        query = _checked(options.query, len(first), "query")
    else:
        query = int((first.amax(-1) if label is None else first[:, label]).argmax())
    return query, int(first[query].argmax()) if label is None else label


def _of_maps(logits: torch.Tensor, label: int | None, options: ScalarOptions) -> torch.Tensor:
    """Return the mean logit of a class over the pixels where it is the highest; over all where it is nowhere."""
    if options.query is not None or options.scalar == "box":
        raise UsageError("the logits are maps: there are no queries", hint="leave `query` out")
    highest = logits.detach().argmax(1)
    label = int(highest.flatten().mode().values) if label is None else _checked(label, logits.shape[1], "class")
    chosen = highest == label
    values = logits[:, label]
    return values[chosen].mean() if bool(chosen.any()) else values.mean()


def _field(outputs: Any, name: str, scalar: str) -> torch.Tensor:
    value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        raise UsageError(f"the model returns no `{name}`: it has no {scalar}", hint="explain the loss")
    return value


def _label(task: Task, label: str | int | None) -> int | None:
    if not isinstance(label, str):
        return label
    names = getattr(task, "label_names", None)
    if not names:
        raise UsageError(f"task {task.name} has no names of labels", place="option label", hint="give an index")
    if label not in names:
        raise unknown("label", label, names)
    return list(names).index(label)


def _checked(index: Any, count: int, what: str) -> int:
    if int(index) >= count:
        raise UsageError(f"there is no {what} {int(index)}", hint=f"there are {count}, from 0")
    return int(index)
