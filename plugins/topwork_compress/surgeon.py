"""Scores that know of least squares: what is lost without a unit when the others are fitted to replace it.

Entry point: `surgeon_scores`. For one projection y = W^T x with A = E[x x^T] over positions and S = E[g g^T] of the
gradients of y, removing the columns R and fitting the others costs tr(S W_R^T ([A^-1]_RR)^-1 W_R) for each position:
optimal brain surgeon (Hassibi and Stork 1993), in groups of columns as ZipLM has it (Kurtic et al. 2023). Units go one
by one, the one that costs least first; the score of each is what its removal adds then, in units of the loss, so that
layers and blocks compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Batch
from topwork_compress.positions import given_by, read_by, share_of
from topwork_compress.units import columns_of, members_of
from topwork_lens.capture.head_slices import heads_verified
from topwork_lens.layers.context import Unit, first_input, output_projection
from topwork_lens.layers.projections import output_dim
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import device_of, frozen
from topwork_lens.scoring.memory import BatchSplitter, MemoryLimit, activation_limit
from topwork_lens.scoring.row_independence import RowLosses

#: times that the inverse of a whole projection is brought up to date, and units that are looked at between two of them,
#: as a multiple of those that go
_STEPS, _TRIED = 64, 4
#: what is added to A, as a share of its mean diagonal
_RIDGE = 0.01


@dataclass
class Moments:
    """Sums over positions of one projection.

    Args:
        inputs: [columns, columns], of x x^T.
        gradients: [outputs, outputs], of g g^T.
        read: positions that `inputs` is a sum of.
        given: positions that `gradients` is a sum of.
        positions: all that ran, padding not counted.
    """

    inputs: torch.Tensor | float = 0.0
    gradients: torch.Tensor | float = 0.0
    read: int = 0
    given: int = 0
    positions: int = 0

    def add(self, more: Moments) -> None:
        """Add the sums of other rows."""
        for name, value in vars(more).items():
            setattr(self, name, getattr(self, name) + value)


def surgeon_scores(
    model: nn.Module, units: Mapping[str, Unit], batches: Sequence[Batch], row_losses: RowLosses
) -> dict[str, torch.Tensor]:
    """Return what the removal of each unit adds to the mean loss of a row: [units] by path.

    Args:
        model: the model.
        units: layers and blocks whose projections can be fitted.
        batches: calibration rows.
        row_losses: (model, batch) -> [rows].
    """
    rows, sums = sum(batch.row_count for batch in batches), _moments(model, units, batches, row_losses)
    values = {}
    for path, unit in units.items():
        groups, moments = members_of(unit), sums.get(path, Moments())
        if not isinstance(moments.gradients, torch.Tensor):  # it never ran, or no loss depends on it
            values[path] = torch.zeros(len(groups), dtype=torch.float64)
            continue
        projection: Any = output_projection(model, unit)
        weight = (
            projection.weight.detach().movedim(output_dim(projection), -1).unsqueeze(1).flatten(1, -2).double().cpu()
        )
        each = weight.shape[1]  # weights of a channel, of a convolution
        features = torch.stack([columns_of(model, unit)[list(members)].flatten() for members in groups])
        columns = (features[..., None] * each + torch.arange(each)).flatten(1)
        metric = _root(moments.gradients / moments.given)
        added = removal_losses(moments.inputs / moments.read, weight.flatten(0, 1) @ metric, columns)
        values[path] = added * moments.positions / rows
    return values


def _root(matrix: torch.Tensor) -> torch.Tensor:
    """Return R with R R^T equal to a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    large = values > values.max() * 1e-10
    return vectors[:, large] * values[large].sqrt()


# ---------------------------------------------------------------- one by one


def removal_losses(inputs: Any, weight: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return what the removal of each unit adds, when the unit that adds least goes first: [units].

    Args:
        inputs: [all columns, all columns], E[x x^T].
        weight: [all columns, outputs], in the metric of the loss.
        columns: [units, columns of each].
    """
    order, width = columns.flatten(), columns.shape[1]
    penalty = _RIDGE * inputs.diagonal().mean().clamp(min=1e-30)
    system = inputs[order][:, order] + penalty * torch.eye(len(order), dtype=inputs.dtype)
    inverse, weight = torch.linalg.inv(system), weight[order]
    left = torch.arange(len(columns))
    added, most, step = torch.zeros(len(columns), dtype=torch.float64), 0.0, -(-len(columns) // _STEPS)
    while len(left):
        tried = _losses(inverse, weight, width).argsort()[: _TRIED * step]
        inner = _flat(tried, width)
        for index, loss in _one_by_one(inverse[inner][:, inner], weight[inner], width, step):
            most = max(most, loss)
            added[left[tried[index]]] = most
            left[tried[index]] = -1
        leaving, stay = _flat((left < 0).nonzero().flatten(), width), _flat((left >= 0).nonzero().flatten(), width)
        change = torch.linalg.solve(inverse[leaving][:, leaving], inverse[leaving])[:, stay]
        weight = weight[stay] - change.T @ weight[leaving]
        inverse = inverse[stay][:, stay] - change.T @ inverse[leaving][:, stay]
        left = left[left >= 0]
    return added


def _one_by_one(inverse: torch.Tensor, weight: torch.Tensor, width: int, count: int) -> list[tuple[int, float]]:
    """Return the units of a few that go first, with what each adds; the inverse is brought up to date after each."""
    left = list(range(len(inverse) // width))
    result: list[tuple[int, float]] = []
    while left and len(result) < count:
        losses = _losses(inverse, weight, width)
        best = min(left, key=lambda index: float(losses[index]))
        result.append((best, float(losses[best])))
        left.remove(best)
        leaving = slice(best * width, best * width + width)
        change = torch.linalg.solve(inverse[leaving, leaving], inverse[leaving])
        weight = weight - change.T @ weight[leaving]
        inverse = inverse - change.T @ inverse[leaving]
        inverse[leaving, leaving] = torch.eye(width, dtype=inverse.dtype)
    return result


def _losses(inverse: torch.Tensor, weight: torch.Tensor, width: int) -> torch.Tensor:
    """Return tr(W_R^T ([A^-1]_RR)^-1 W_R) of each unit: [units]."""
    if width == 1:
        return weight.square().sum(1) / inverse.diagonal()
    units = torch.arange(len(inverse) // width)
    blocks = inverse.unflatten(0, (-1, width)).unflatten(2, (-1, width))[units, :, units]  # [units, width, width]
    parts = weight.unflatten(0, (-1, width))
    return (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))


def _flat(units: torch.Tensor, width: int) -> torch.Tensor:
    """Return the columns of units that lie one after another."""
    return (units[:, None] * width + torch.arange(width)).flatten()


# ---------------------------------------------------------------- moments


def _moments(
    model: nn.Module, units: Mapping[str, Unit], batches: Sequence[Batch], row_losses: RowLosses
) -> dict[str, Moments]:
    """Return the moments of projections that ran, by path."""
    splitter, rows = BatchSplitter(model, activation_limit(device_of(model))), sum(batch.row_count for batch in batches)
    layers = [unit for unit in units.values() if isinstance(unit, AttentionLayer)]
    sums: dict[str, Moments] = {}
    waiting = list(batches)
    with frozen(model):
        while waiting:
            part, *rest = splitter.parts(waiting.pop(0))
            waiting = [*rest, *waiting]
            try:
                with nullcontext() if sums else heads_verified(model, layers):
                    added = _moments_of_part(model, units, part, row_losses, splitter, share_of(part, rows))
            except MemoryLimit:
                waiting = [*splitter.halves(part), *waiting]
                continue
            for path, moments in added.items():
                sums.setdefault(path, Moments()).add(moments)
    return sums


def _moments_of_part(
    model: nn.Module, units: Mapping[str, Unit], batch: Batch, row_losses: RowLosses, splitter: BatchSplitter, most: int
) -> dict[str, Moments]:
    sums: dict[str, Moments] = {}
    zeros: list[torch.Tensor] = []

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
            moments = sums.setdefault(path, Moments())
            read, ran = read_by(module, first_input(args, kwargs).detach(), batch, most)
            flat = read.flatten(1)
            moments.add(Moments((flat.T @ flat).double().cpu(), 0.0, len(flat), 0, ran))

            def take(gradient: torch.Tensor) -> None:
                given = given_by(module, gradient, batch, most)
                moments.add(Moments(0.0, (given.T @ given).double().cpu(), 0, len(given), 0))

            # a sum with a zero that needs a gradient has one, whatever came before it
            zeros.append(torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True))
            summed = output + zeros[-1]
            summed.register_hook(take)
            return summed

        return hook

    with ExitStack() as stack:
        stack.enter_context(unfolded([model.get_submodule(path) for path in units]))
        for path, unit in units.items():
            projection = output_projection(model, unit)
            stack.callback(projection.register_forward_hook(watch(path), with_kwargs=True).remove)
        with splitter.measuring(batch):
            losses = row_losses(model, batch)
        if zeros and losses.requires_grad:
            torch.autograd.grad(losses.sum(), zeros, allow_unused=True)
    return sums
