"""Losses of plain models: batches that are dicts of tensors, and the loss that a model or a given function computes.

Entry point: `of_plain_model`. Scores need a loss for each row, as if it were alone. Models return the mean of a batch;
so the functions of torch by which they compute it are called row by row, in one run of the model. The first batch is
checked: where the losses are not those of rows run alone, every row is run alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from topwork import Batch, Item, TopworkError, UsageError
from topwork_lens.capture.verification import tolerance
from topwork_lens.model_state import plain_inputs, quiet
from topwork_lens.refusals import refuse
from topwork_lens.scoring.row_independence import RowLosses

#: called with the outputs of a model and the inputs of its batch; returns [rows], or the loss of a batch of one row
LossFunction = Callable[[Any, Mapping[str, Any]], torch.Tensor]

_LOSSES = (
    functional.cross_entropy,
    functional.nll_loss,
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
)


def single_items(inputs: Mapping[str, Any]) -> Iterator[Batch]:
    """Split a batch of tensors into batches of one row each, so that every row is scored as if it were alone."""
    count = _rows(inputs)
    for item in range(count):
        yield Batch({name: _part(value, item, count) for name, value in inputs.items()}, [Item(0, {})])


def _rows(inputs: Mapping[str, Any]) -> int:
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor) and value.dim()]
    if not tensors:
        raise UsageError("a batch has no tensor", hint="give dicts of tensors, the first dimension the rows")
    return len(tensors[0])


def _part(value: Any, item: int, count: int) -> Any:
    by_row = isinstance(value, torch.Tensor) and value.dim() and len(value) == count
    return value[item : item + 1] if by_row else value


def own_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss that a plain transformers model computes itself for a batch of one row: [1].

    Raises:
        Refused: it computes none.
    """
    return _loss(model, batch).reshape(1)


def _loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    outputs = model(**batch.inputs)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if loss is None:
        raise refuse("no_gradient", f"{type(model).__name__} gave no loss", hint="give labels, or loss=...")
    return loss


def losses_by_row(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the losses [rows] of a plain model that computes its own loss, from one run."""
    with _ByRow(batch.row_count):
        return _loss(model, batch)


class _ByRow(TorchFunctionMode):
    """Mode in which means of losses over a batch are means over each row: [rows]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function not in _LOSSES:
            return function(*args, **kwargs)
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        count = len(given["input"]) if given["input"].dim() else 0
        mean = given.get("reduction", "mean") == "mean" and given.get("reduce") is not False
        if not mean or not count or count % self.rows or len(given["target"]) != count:
            return function(*args, **kwargs)
        size = count // self.rows
        parts = [slice(index * size, (index + 1) * size) for index in range(self.rows)]
        by_row = [{**given, "input": given["input"][part], "target": given["target"][part]} for part in parts]
        return torch.stack([function(**arguments) for arguments in by_row])


def of_plain_model(
    model: nn.Module, batches: Iterable[Mapping[str, Any] | Batch], loss: LossFunction | None = None
) -> tuple[Iterator[Batch], RowLosses]:
    """Return the batches of a plain model, and what computes the losses of their rows.

    Args:
        model: the model.
        batches: dicts of tensors.
        loss: computes losses; None for the model's own.

    Raises:
        UsageError: there are no tensors, or the loss function returned something else than losses.
        Refused: the model computes no loss.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        return iter(()), own_loss
    together: RowLosses = losses_by_row if loss is None else _Given(loss)
    alone: RowLosses = own_loss if loss is None else together
    inputs = plain_inputs(first)
    everything = (plain_inputs(batch) for batch in chain([first], iterator))
    if _are_alike(model, inputs, together, alone):
        return (whole(each) for each in everything), together
    return (row for each in everything for row in single_items(each)), alone


def whole(inputs: Mapping[str, Any]) -> Batch:
    """Return a dict of tensors as a batch with a row for each item."""
    count = _rows(inputs)
    return Batch(dict(inputs), [Item(row, {}) for row in range(count)])


class _Given:
    """Losses by a function of the caller."""

    def __init__(self, loss: LossFunction) -> None:
        self.loss = loss

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        losses = self.loss(model(**batch.inputs), batch.inputs)
        if not isinstance(losses, torch.Tensor) or losses.dim() > 1 or not losses.is_floating_point():
            is_tensor = isinstance(losses, torch.Tensor)
            shape = f"{losses.dtype} of {tuple(losses.shape)}" if is_tensor else type(losses).__name__
            raise UsageError(f"`loss` returned {shape}", hint="return a tensor: [rows], or one loss for a row")
        return losses.reshape(1) if batch.row_count == 1 and losses.numel() == 1 else losses


def _first_losses(model: nn.Module, batch: Batch, row_losses: RowLosses) -> torch.Tensor:
    """Return the losses of the first batch of the caller.

    Raises:
        UsageError: the model does not run on it.
    """
    try:
        return row_losses(model, batch)
    except (TopworkError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        cause = f"{type(model).__name__} gives no loss of the first batch ({type(error).__name__}: {error})"
        raise UsageError(cause, hint="give the inputs and labels that its forward takes") from error


def _are_alike(model: nn.Module, inputs: Mapping[str, Any], together: RowLosses, alone: RowLosses) -> bool:
    """Return whether the losses of a batch are those that its first and last row have when they are run alone."""
    batch = whole(inputs)
    if batch.row_count < 2:
        return False
    rows = list(single_items(inputs))
    with quiet(model):
        losses = _first_losses(model, batch, together)
        if losses.shape != (batch.row_count,):
            return False
        for index in (0, batch.row_count - 1):
            expected = alone(model, rows[index])
            limit = 10 * tolerance(losses.dtype) * max(1.0, float(losses.abs().max()))
            if not bool((losses[index] - expected).abs().max() <= limit):
                return False
    return True
