"""Scores by gradients of gates: E |dL/dgate| (Michel et al. 2019) and E (dL/dgate)^2 (Molchanov et al. 2019).

Entry point: `GradientScorer`. Parameters are frozen (`model_state.frozen`), so one backward pass gives the gate
gradients of every row: each item has a gate of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from topwork import Batch
from topwork_lens.gates import GateHook, reads_by_weight
from topwork_lens.layers.context import Unit, module_at, output_projection, split_heads
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import device_of
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope, eager_when_compiled
from topwork_lens.scoring.memory import BatchSplitter, MemoryLimit, activation_limit
from topwork_lens.scoring.row_independence import (
    RowIndependence,
    RowLosses,
    check_row_independence,
    requiring_one_run,
    seeded_by_row,
)

Reduction = Literal["example", "token", "batch"]


class GradientScorer:
    """Scores batches by gradients of gates; call it with a batch.

    Args:
        reduction: the absolute value (or square) is taken of the gradient of each row ("example"), each position
            ("token") or the sum over the batch ("batch").
        squared: square gradients ("taylor") instead of taking absolute values ("michel").
        seed: of the random numbers that the losses draw.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Unit],
        row_losses: RowLosses,
        reduction: Reduction,
        squared: bool,
        seed: int,
    ) -> None:
        self.model, self.layers = model, [layer for layer in layers if layer.kept]
        self.row_losses = seeded_by_row(row_losses, seed)
        self.reduction, self.squared = reduction, squared
        self.independence = RowIndependence(model, row_losses)
        # "batch" takes the absolute value of the sum over all rows of a batch: it cannot be split
        limit = None if reduction == "batch" else activation_limit(device_of(model))
        self.splitter = BatchSplitter(model, limit)

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the scores of a batch, summed over its rows: [heads] (float64) by path of the layers that ran."""
        sums: dict[str, torch.Tensor] = {}
        waiting = self.splitter.rows(batch) if any(map(reads_by_weight, self.layers)) else [batch]
        while waiting:
            part, *rest = self.splitter.parts(waiting.pop(0))
            waiting = [*rest, *waiting]
            try:
                values = self._score_part(part)
            except MemoryLimit:
                waiting = [*self.splitter.halves(part), *waiting]
                continue
            for path, value in values.items():
                sums[path] = self._joined(sums[path], value) if path in sums else value
            if part.row_count > 1 and not self.independence.verified:
                self.independence.mark_verified()
        return sums

    def _joined(self, before: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Join the scores of two parts of a batch."""
        return before + value

    def _score_part(self, batch: Batch) -> dict[str, torch.Tensor]:
        gates = {layer.path: self._gates(layer, batch) for layer in self.layers}
        with self._gated(gates) as ran, requiring_one_run(self.model, batch), self.splitter.measuring(batch):
            losses = self.row_losses(self.model, batch)
        if losses.shape != (batch.row_count,):
            raise refuse("batch_coupled", f"row_losses answered {tuple(losses.shape)} for {batch.row_count} rows")
        leaves = [(path, leaf) for path in ran for leaf in gates[path].leaves]
        tensors = [leaf for _, leaf in leaves]
        if not leaves or not losses.requires_grad:
            raise refuse("no_gradient", "the loss does not depend on any attention head")
        if batch.row_count > 1 and not self.independence.verified:
            check_row_independence(losses, tensors, batch)
        gradients = torch.autograd.grad(losses.sum(), tensors, allow_unused=True)
        values: dict[str, torch.Tensor] = {}
        for (path, leaf), gradient in zip(leaves, gradients, strict=True):
            value = self._reduced((torch.zeros_like(leaf) if gradient is None else gradient).detach().double(), batch)
            values[path] = values[path] + value if path in values else value
        return values

    def _gates(self, layer: Unit, batch: Batch) -> _UnitGates:
        gates = _UnitGates(layer, len(batch), self.reduction == "token")
        if reads_by_weight(layer):
            if batch.row_count > 1 or self.reduction == "token":
                cause = "experts see the tokens of all rows together, so their neurons are scored one row at a time"
                raise refuse("batch_coupled", cause, place=layer.path, hint="give batches of one row")
            gates.on_weight(device_of(self.model))
        return gates

    def _reduced(self, gradient: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Reduce [items, heads] or [entries, ..., heads] to [heads]: the sum over the rows of the batch."""
        if self.reduction == "token":
            return (gradient.square() if self.squared else gradient.abs()).flatten(0, -2).sum(0)
        by_row = _sum_items(gradient, batch)
        if self.reduction == "batch":
            by_row = by_row.sum(0, keepdim=True)
        return (by_row.square() if self.squared else by_row.abs()).sum(0)

    @contextmanager
    def _gated(self, gates: dict[str, _UnitGates]) -> Iterator[list[str]]:
        """Put gates on all layers for the block; afterwards the list has the paths of the layers that ran."""
        ran: list[str] = []
        hooks: dict[str, GateHook] = {}
        with ExitStack() as stack:
            stack.enter_context(eager_when_compiled())
            scope = stack.enter_context(Scope())
            stack.enter_context(unfolded([module_at(self.model, path) for path in gates]))
            for layer in self.layers:
                by_weight = reads_by_weight(layer)
                made: Any = gates[layer.path].leaves[0] if by_weight else gates[layer.path]
                hook = hooks[layer.path] = GateHook(layer, made, scope)
                projection = output_projection(self.model, layer)
                stack.callback(projection.register_forward_pre_hook(hook, with_kwargs=True).remove)
                if by_weight:
                    stack.callback(projection.register_forward_hook(hook.show_weight, always_call=True).remove)
            yield ran
            ran += [path for path, hook in hooks.items() if hook.calls]


class RowGradients(GradientScorer):
    """Gradients of gates, row by row: [rows, heads or neurons] by path, rows in the order of the batch.

    Args:
        model: the model; its parameters are frozen while it is called (`model_state.frozen`).
        units: attention layers and blocks.
        row_losses: (model, batch) -> [rows].
        seed: of the random numbers that the losses draw.
    """

    def __init__(self, model: nn.Module, units: Sequence[Unit], row_losses: RowLosses, seed: int) -> None:
        super().__init__(model, units, row_losses, "example", False, seed)

    def _joined(self, before: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([before, value])

    def _reduced(self, gradient: torch.Tensor, batch: Batch) -> torch.Tensor:
        return _sum_items(gradient, batch)


class _UnitGates:
    """Makes gates of 1 that need a gradient: one for each item and attention head, or for each position.

    Args:
        items: items of the batch.
        by_token: a gate for each position.
    """

    def __init__(self, layer: Unit, items: int, by_token: bool) -> None:
        self.layer, self.items, self.by_token = layer, items, by_token
        self.leaves: list[torch.Tensor] = []

    def on_weight(self, device: torch.device) -> None:
        """Make one gate a neuron, for experts: it is multiplied with what reads the neuron."""
        self.leaves.append(torch.ones(len(self.layer.kept), device=device, requires_grad=True))

    def __call__(self, context: torch.Tensor) -> torch.Tensor:
        heads = split_heads(self.layer, context)
        if self.by_token:
            shape = heads.shape[:-1]
        elif self.leaves:
            # A shared module runs several times: all of its runs share one gate.
            return self.leaves[0]
        else:
            shape = torch.Size((self.items, heads.shape[-2]))
        leaf = torch.ones(shape, dtype=context.dtype, device=context.device, requires_grad=True)
        self.leaves.append(leaf)
        return leaf


def _sum_items(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum [items, heads] over the items of each row: [rows, heads]; [neurons] of one row are [1, neurons]."""
    if values.dim() == 1:
        return values.unsqueeze(0)
    row_index = torch.tensor(batch.rows, device=values.device)
    return values.new_zeros(batch.row_count, *values.shape[1:]).index_add(0, row_index, values)
