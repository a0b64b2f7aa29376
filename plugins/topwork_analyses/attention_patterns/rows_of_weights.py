"""Attention weights of rows, one item at a time, so that memory does not grow with the rows.

Entry point: `weights_of_rows`. The model runs as it does for its loss: an encoder-decoder on the true target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from topwork import AttentionLayer, Units
from topwork_lens.look import Look

if TYPE_CHECKING:
    from topwork import Run
    from topwork_lens.capture.result import Captured


@dataclass
class RowWeights:
    """Attention weights of one item.

    Args:
        row: index of its row in the role.
        units: what its positions are.
        captured: what the capture kept; "valid" and "weights", with gradients "weights_gradient".
    """

    row: int
    units: Units
    captured: Captured

    def of(self, layer: AttentionLayer, what: str = "weights") -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return ([heads, queries, keys], [queries] that are no padding) of a layer, for each window and each call."""
        calls = self.captured.values.get(what, {}).get(layer.path, ())
        valid = self.captured.values.get("valid", {}).get(layer.path, ())
        if not len(calls) or len(calls) != len(valid):
            return []
        return [pair for weights, mask in zip(calls, valid, strict=True) for pair in _windows(weights, mask)]


def _windows(weights: torch.Tensor, valid: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    weights = weights.float() if weights.dtype in (torch.bfloat16, torch.float16) else weights
    yield from zip(weights, valid.expand(len(weights), -1), strict=True)


def weights_of_rows(
    run: Run,
    role: str,
    limit: int | None = None,
    *,
    layers: Sequence[AttentionLayer] | None = None,
    gradients: bool = False,
) -> Iterator[RowWeights]:
    """Yield the attention weights of each item of this process's share of the rows.

    Args:
        run: the run; its model stays as it is.
        role: whose rows.
        limit: use the first rows only.
        layers: only these.
        gradients: also the gradients of each row's loss for the weights.

    Raises:
        Refused: no layer has attention weights, or some attention is not described.
    """
    look = Look(run.model, run.plugins)
    paths = None if layers is None else [layer.path for layer in layers]
    what = ("weights", "weights_gradient") if gradients else ("weights",)
    for batch in run.loss_batches(role, limit=limit, batch_size=1):
        for item in batch.items:
            single = batch if len(batch.items) == 1 else run.task.collate([item], "loss").to(run.device)
            with _gradients(run.model, gradients), look.capture(*what, layers=paths) as captured:
                losses = run.task.row_losses(run.model, single)
                if gradients:
                    losses.sum().backward()
            yield RowWeights(item.row, run.task.units(item), captured)


@contextmanager
def _gradients(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Take gradients in the block, or none; the gradients of parameters are afterwards what they were."""
    if not wanted:
        with torch.no_grad():
            yield
        return
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def decoder_reads_input(layers: Sequence[AttentionLayer]) -> bool:
    """Return whether decoder self-attention is over the input: there is no encoder beside it."""
    return not any(layer.side == "encoder" for layer in layers)
