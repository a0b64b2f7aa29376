"""Tuning by least squares: what reads the units that are left is fitted to what it gave in the whole model.

Entry point: `tune`. From the first layer to the last: X is the input of the projection in the model as it is smaller by
then, Y its output in the whole model on the same rows, W its weight for the columns that are left, with the bias as a
last column. W' minimises ||Y - X W'||^2 + l ||W' - W||^2, with l a share of the mean diagonal of X^T X: with much l, or
no data, nothing changes. It is fitted on four fifths of the rows and accepted on the last fifth, for each projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from topwork import Batch
from topwork_compress.units import Masks, Units, columns_of
from topwork_lens.gates import factors_of, gated
from topwork_lens.layers.context import Unit, first_input, output_projection
from topwork_lens.layers.projections import is_pointwise, output_dim
from topwork_lens.model_state import quiet
from topwork_lens.scoring.row_independence import RowLosses

Method = Literal["lstsq", "bias", "none"]
#: l as a share of the mean diagonal of X^T X
RIDGE = 0.01
#: every fifth batch is held out
_HELD_OUT = 5


@dataclass
class Fitted:
    """Outcome of fitting one projection.

    Args:
        path: of the attention layer or block.
        before: relative error of its output on held-out rows, ||Y - X W||^2 / ||Y||^2.
        after: the same with the fitted weight.
        accepted: whether the fitted weight is in force.
        why: why it was not fitted, or "".
    """

    path: str
    before: float = 0.0
    after: float = 0.0
    accepted: bool = False
    why: str = ""

    def json(self) -> dict[str, Any]:
        """Return the entry of a table."""
        return dict(vars(self))


class _Enough(Exception):
    """The projection ran: the rest of the model need not."""


def tune(
    model: nn.Module,
    units: Units,
    removed: Masks,
    batches: Sequence[Batch],
    row_losses: RowLosses,
    method: Method = "lstsq",
    ridge: float = RIDGE,
) -> list[Fitted]:
    """Fit the projections behind what is removed; the model stays masked by whoever prunes it.

    Args:
        model: the whole model; weights of its projections change.
        units: its units.
        removed: original indices by path.
        batches: calibration rows.
        row_losses: runs the model: (model, batch) -> [rows].
        method: "lstsq", or "bias" alone, or "none".
        ridge: l.
    """
    chosen = {path: units.chosen[path] for path, indices in removed.items() if indices}
    if method == "none" or not chosen or len(batches) < 2:
        return []
    targets, order = _outputs(model, chosen, batches, row_losses)
    gates = {path: (unit, factors_of(unit, removed[path])) for path, unit in chosen.items()}
    results = []
    for index, path in enumerate(order):
        unit = chosen[path]
        obstacle = _obstacle(model, unit)
        if obstacle:
            results.append(Fitted(path, why=obstacle))
            continue
        ran = {before: gates[before] for before in order[: index + 1]}  # what runs later changes nothing here
        with gated(model, ran), quiet(model):
            inputs = _inputs(model, unit, batches, row_losses)
        results.append(_fit(model, unit, removed[path], inputs, targets.pop(path), method, ridge))
    return results


def _obstacle(model: nn.Module, unit: Unit) -> str:
    projection: Any = output_projection(model, unit)
    if isinstance(projection, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not is_pointwise(projection):
        return "a convolution over several positions is not fitted"
    if len(unit.callers) > 1:
        return "several layers share it"
    weight = getattr(projection, "weight", None)
    plain = isinstance(weight, nn.Parameter) and weight.squeeze().dim() <= 2
    return "" if plain else "its weight is no plain matrix"


@contextmanager
def _reading(model: nn.Module, units: Mapping[str, Unit], inputs: bool, take: Any) -> Any:
    with ExitStack() as stack:
        for path, unit in units.items():
            projection = output_projection(model, unit)
            hook = _take_input(path, take) if inputs else _take_output(path, take)
            if inputs:
                stack.callback(projection.register_forward_pre_hook(hook, with_kwargs=True).remove)
            else:
                stack.callback(projection.register_forward_hook(hook).remove)
        yield


def _take_input(path: str, take: Any) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        value = first_input(args, kwargs)
        take(path, value.movedim(1, -1) if is_pointwise(module) else value)

    return hook


def _take_output(path: str, take: Any) -> Any:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        take(path, output.movedim(1, -1) if is_pointwise(module) else output)

    return hook


def _positions(value: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return [positions, features] without padding, where the batch says what is padding."""
    mask = batch.inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and value.dim() == 3 and mask.shape == value.shape[:2]:
        return value[mask != 0]
    return value.flatten(0, -2)


def _outputs(
    model: nn.Module, units: Mapping[str, Unit], batches: Sequence[Batch], row_losses: RowLosses
) -> tuple[dict[str, list[torch.Tensor]], list[str]]:
    """Return the outputs of projections in the whole model, batch by batch, and the order in which they run."""
    values: dict[str, list[torch.Tensor]] = {}
    current: list[Batch] = []

    def take(path: str, value: torch.Tensor) -> None:
        values.setdefault(path, []).append(_positions(value.detach(), current[0]).float())

    with _reading(model, units, False, take), quiet(model):
        for batch in batches:
            current[:] = [batch]
            row_losses(model, batch)
    return values, list(values)


def _inputs(model: nn.Module, unit: Unit, batches: Sequence[Batch], row_losses: RowLosses) -> list[torch.Tensor]:
    values: list[torch.Tensor] = []
    current: list[Batch] = []

    def take(path: str, value: torch.Tensor) -> None:
        values.append(_positions(value.detach(), current[0]).float())
        raise _Enough

    with _reading(model, {unit.path: unit}, True, take):
        for batch in batches:
            current[:] = [batch]
            try:
                row_losses(model, batch)
            except _Enough:
                continue
    return values


def _fit(
    model: nn.Module,
    unit: Unit,
    removed: Sequence[int],
    inputs: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    method: Method,
    ridge: float,
) -> Fitted:
    if [len(value) for value in inputs] != [len(value) for value in targets]:
        return Fitted(unit.path, why="it runs several times a row")
    projection: Any = output_projection(model, unit)
    kept = _columns_left(model, unit, removed)
    matrix = projection.weight.detach().flatten(1) if output_dim(projection) == 0 else projection.weight.detach().T
    bias = getattr(projection, "bias", None)
    rows = [torch.cat([value[:, kept], value.new_ones(len(value), 1)], 1) for value in inputs]
    shift = matrix.new_zeros(len(matrix)) if bias is None else bias.detach()
    start = torch.cat([matrix[:, kept], shift[:, None]], 1)
    start = start.double().T  # [columns + 1, outputs]
    held = [index for index in range(len(rows)) if index % _HELD_OUT == _HELD_OUT - 1] or [len(rows) - 1]
    fitted = _solved(rows, targets, start, set(held), method, ridge, has_bias=bias is not None)
    before, after = (_error(rows, targets, weight, held) for weight in (start, fitted))
    accepted = after < before
    if accepted:
        _store(projection, kept, fitted)
    return Fitted(unit.path, before, after, accepted)


def _columns_left(model: nn.Module, unit: Unit, removed: Sequence[int]) -> list[int]:
    """Return the columns that the projection still reads, in their order."""
    columns, out = columns_of(model, unit), set(removed)
    left = [position for position, index in enumerate(unit.kept) if index not in out]
    return sorted(columns[left].flatten().tolist())


def _solved(
    rows: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    start: torch.Tensor,
    held: set[int],
    method: Method,
    ridge: float,
    has_bias: bool,
) -> torch.Tensor:
    """Return W + (X^T X + l)^-1 X^T (Y - X W), so that with much l the very bits of W stay."""
    size = len(start)
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(start.shape, dtype=torch.float64)
    for index, (row, target) in enumerate(zip(rows, targets, strict=True)):
        if index not in held:
            wide = row.double()
            gram += (row.T @ row).double() if method == "lstsq" else torch.zeros_like(gram)
            rest = target.double() - wide @ start
            cross += wide.T @ rest
            if method == "bias":
                gram[-1, -1] += len(row)
    if method == "bias":
        change = torch.zeros_like(start)
        change[-1] = cross[-1] / (gram[-1, -1] * (1 + ridge))
        return start + change * has_bias
    inner = size if has_bias else size - 1
    penalty = ridge * gram.diagonal()[: size - 1].mean()
    system = gram[:inner, :inner] + penalty * torch.eye(inner, dtype=torch.float64)
    change = torch.zeros_like(start)
    if bool(penalty.isfinite()) and float(penalty) > 0:
        change[:inner] = torch.linalg.solve(system, cross[:inner])
    return start + change


def _error(rows: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], weight: torch.Tensor, held: Any) -> float:
    wrong = whole = 0.0
    for index in held:
        target = targets[index].double()
        wrong += float((target - rows[index].double() @ weight).square().sum())
        whole += float(target.square().sum())
    return wrong / whole if whole else wrong


def _store(projection: Any, kept: Sequence[int], fitted: torch.Tensor) -> None:
    weight = projection.weight
    index = torch.tensor(kept, dtype=torch.long, device=weight.device)
    with torch.no_grad():
        if output_dim(projection) == 0:
            shape = (*weight.shape[:1], len(kept), *weight.shape[2:])
            weight.index_copy_(1, index, fitted[:-1].T.reshape(shape).to(weight))
        else:
            weight.index_copy_(0, index, fitted[:-1].to(weight))
        if getattr(projection, "bias", None) is not None:
            projection.bias.copy_(fitted[-1].to(projection.bias))
