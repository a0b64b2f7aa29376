"""Tuning by least squares: what reads the units that are left is fitted to what it gave in the whole model.

Entry point: `tune`. From the first layer to the last: X is the input of the projection in the model as it is smaller by
then, Y its output in the whole model on the same rows, W its weight for the columns that are left, with the bias as a
last column. W' minimises ||Y - X W'||^2 + l ||W' - W||^2, with l a share of the mean diagonal of X^T X: with much l, or
no data, nothing changes. It is fitted on four fifths of the rows and accepted on the last fifth, for each projection. A
convolution reads patches: X has a column for each weight of a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from topwork import Batch
from topwork_compress.positions import inputs_of, is_convolution, outputs_of
from topwork_compress.units import Masks, Units, columns_of
from topwork_lens.gates import factors_of, gated
from topwork_lens.layers.context import Unit, output_projection
from topwork_lens.layers.projections import output_dim
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
    targets = outputs_of(model, chosen, batches, row_losses)
    order = list(targets)
    gates = {path: (unit, factors_of(unit, removed[path])) for path, unit in chosen.items()}
    results = []
    for index, path in enumerate(order):
        unit = chosen[path]
        obstacle = obstacle_of(model, unit)
        if obstacle:
            results.append(Fitted(path, why=obstacle))
            continue
        ran = {before: gates[before] for before in order[: index + 1]}  # what runs later changes nothing here
        with gated(model, ran):
            inputs = inputs_of(model, unit, batches, row_losses)
        results.append(_fit(model, unit, removed[path], inputs, targets.pop(path), method, ridge))
    return results


def obstacle_of(model: nn.Module, unit: Unit) -> str:
    """Return why the projection of a layer or block cannot be fitted, or ""."""
    projection: Any = output_projection(model, unit)
    if len(unit.callers) > 1:
        return "several layers share it"
    if is_convolution(projection):
        return "it reads channels in groups" if projection.groups > 1 else ""
    weight = getattr(projection, "weight", None)
    plain = isinstance(weight, nn.Parameter) and weight.dim() == 2
    return "" if plain else "its weight is no plain matrix"


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
    kept = _features_left(model, unit, removed)
    weight = projection.weight.detach().movedim(output_dim(projection), -1)  # [input features, *kernel, outputs]
    bias = getattr(projection, "bias", None)
    shift = weight.new_zeros(weight.shape[-1]) if bias is None else bias.detach()
    start = torch.cat([weight[kept].flatten(0, -2), shift[None]]).double()  # [columns + 1, outputs]
    rows = [torch.cat([value[:, kept].flatten(1), value.new_ones(len(value), 1)], 1) for value in inputs]
    held = [index for index in range(len(rows)) if index % _HELD_OUT == _HELD_OUT - 1] or [len(rows) - 1]
    fitted = _solved(rows, targets, start, set(held), method, ridge, has_bias=bias is not None)
    before, after = (_error(rows, targets, weight, held) for weight in (start, fitted))
    accepted = after < before
    if accepted:
        _store(projection, kept, fitted)
    return Fitted(unit.path, before, after, accepted)


def _features_left(model: nn.Module, unit: Unit, removed: Sequence[int]) -> list[int]:
    """Return the input features that the projection still reads, in their order."""
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
    gram = start.new_zeros(size, size)
    cross = torch.zeros_like(start)
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
    system = gram[:inner, :inner] + penalty * torch.eye(inner, dtype=start.dtype, device=start.device)
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
    """Write fitted weights: [columns + 1, outputs], the bias last."""
    with torch.no_grad():
        weight = projection.weight.movedim(output_dim(projection), -1)
        weight[kept] = fitted[:-1].reshape(len(kept), *weight.shape[1:]).to(weight)
        if getattr(projection, "bias", None) is not None:
            projection.bias.copy_(fitted[-1].to(projection.bias))
