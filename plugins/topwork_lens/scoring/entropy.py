"""How sharply attention heads attend, as a score: ln(keys) - entropy, the nats by which they are sharper than uniform.

Means are taken over the queries that are no padding, then over the items of a row, so that a row scores the same
whatever stands beside it in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Batch
from topwork_lens.capture.capture import Capture

RowLosses = Callable[[nn.Module, Batch], torch.Tensor]


def sharpness(
    model: nn.Module, layers: Sequence[AttentionLayer], batch: Batch, row_losses: RowLosses
) -> dict[str, torch.Tensor]:
    """[heads] by layer: sums over the rows of the batch; a layer that runs several times counts with its mean."""
    capture = Capture(model, layers, ["information"])
    with torch.no_grad(), capture.run() as seen:
        row_losses(model, batch)
    pairs = any(layer.kind == "cross" for layer in layers)
    by_path = {layer.path: layer for layer in layers}
    found = {}
    for path, calls in seen.found.get("information", {}).items():
        real = [_real(valid, by_path[path], batch, pairs) for valid in seen.found["valid"][path]]
        sums = [_over_rows(values.double(), valid, batch) for values, valid in zip(calls, real, strict=True)]
        found[path] = torch.stack(sums).mean(0)
    return found


def _real(valid: torch.Tensor, layer: AttentionLayer, batch: Batch, pairs: bool) -> torch.Tensor:
    """[items, queries]: those that are no padding. What pads the decoder of an encoder-decoder, no mask of
    cross-attention says; its targets do, which are -100 there."""
    targets: Any = batch.inputs.get("labels")
    if pairs and layer.side == "decoder" and isinstance(targets, torch.Tensor) and targets.shape == valid.shape:
        return valid & (targets != -100).to(valid.device)
    return valid


def _over_rows(values: torch.Tensor, valid: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[entries, heads, queries] -> [heads]: the mean of each row, summed over the rows."""
    weight = valid[:, None, :].to(values)
    counted = weight.sum(-1)
    by_entry = (values * weight).sum(-1) / counted.clamp(min=1)
    share, rest = divmod(len(by_entry), len(batch))
    if rest:  # the task ran its rows in pieces of its own
        return by_entry.mean(0) * batch.row_count
    by_item = by_entry.unflatten(0, (len(batch), share)).mean(1)
    index = torch.tensor(batch.rows, device=values.device)
    sums = by_item.new_zeros(batch.row_count, by_item.shape[1]).index_add(0, index, by_item)
    return (sums / torch.bincount(index, minlength=batch.row_count)[:, None]).sum(0)
