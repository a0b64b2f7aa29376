"""The scalar of one row that an analysis explains, with its gradient: by name, from what the model returns.

Entry point: `RowScalar`. The model is run as for the loss of the row, so that its inputs are those of the task
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


class RowScalar:
    """The scalar of one row, of which class, query and pixels are chosen in the first run and stay.

    Args:
        task: that the model is for.
        model: in evaluation mode.
        batch: of one row, in mode "loss".
        options: which number; None for the negative loss.

    Example:
        >>> RowScalar(work.task, work.model, batch, stage)().backward()  # doctest: +SKIP
    """

    def __init__(self, task: Task, model: nn.Module, batch: Batch, options: ScalarOptions | None = None) -> None:
        self.task, self.model, self.batch, self.options = task, model, batch, options
        self.label: int | None = None
        self.query: int | None = None
        self.pixels: torch.Tensor | None = None

    def __call__(self, model: nn.Module | None = None) -> torch.Tensor:
        """Run the model, and return the scalar: without dimensions; of several items of the row the sum.

        Args:
            model: another one, such as a copy with other weights.

        Raises:
            UsageError: the outputs of the model have no such number.
        """
        model = model or self.model
        outputs: list[Any] = []
        handle = model.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            loss = self.task.row_losses(model, self.batch).sum()
        finally:
            handle.remove()
        if self.options is None or self.options.scalar == "loss":
            return -loss
        if not outputs:
            raise UsageError(f"the loss of task {self.task.name} does not run the model", hint="explain the loss")
        return self._of(outputs[-1], self.options)

    def _of(self, outputs: Any, options: ScalarOptions) -> torch.Tensor:
        if options.scalar == "depth":
            return _field(outputs, "predicted_depth", options.scalar).mean()
        logits = _field(outputs, "logits", options.scalar)
        if self.label is None:
            self._choose(logits.detach(), options)
        label, query = self.label, self.query
        if self.pixels is not None:
            return logits[:, label][self.pixels].mean()
        if query is None:
            return logits[:, label].sum()
        if options.scalar == "logit":
            return logits[:, query, label].sum()
        assert options.coordinate is not None
        return _field(outputs, "pred_boxes", options.scalar)[:, query, _COORDINATES.index(options.coordinate)].sum()

    def _choose(self, logits: torch.Tensor, options: ScalarOptions) -> None:
        """Note the class, and the query or the pixels: as named, else those with the highest logits."""
        label = _label(self.task, options.label)
        has_queries = logits.dim() == 3
        if not has_queries and (options.query is not None or options.scalar == "box"):
            what = "maps" if logits.dim() == 4 else "of the whole input"
            raise UsageError(f"the logits are {what}: there are no queries", hint="leave `query` out")
        if label is not None:
            label = _checked(label, logits.shape[1 if logits.dim() == 4 else -1], "class")
        if has_queries:
            first = logits[0]
            highest = first.amax(-1) if label is None else first[:, label]
            self.query = int(highest.argmax()) if options.query is None else options.query
            _checked(self.query, len(first), "query")
            label = int(first[self.query].argmax()) if label is None else label
        elif logits.dim() == 4:
            highest = logits.argmax(1)
            label = int(highest.flatten().mode().values) if label is None else label
            chosen = highest == label
            self.pixels = chosen if bool(chosen.any()) else torch.ones_like(chosen)
        self.label = int(logits.sum(0).argmax()) if label is None else label


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
