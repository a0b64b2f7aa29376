"""Sharpness of attention as a score: ln(keys) - entropy, in nats; uniform attention has 0.

Entry point: `sharpness`. Means are taken over the queries that are not padding, then over the items of a row, so that
the score of a row does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Batch
from topwork_lens.capture.capture import Capture
from topwork_lens.scoring.row_independence import RowLosses


def sharpness(
    model: nn.Module, layers: Sequence[AttentionLayer], batch: Batch, row_losses: RowLosses
) -> dict[str, torch.Tensor]:
    """Return the sharpness of each attention head, summed over the rows of the batch: [heads] by layer path.

    A layer that runs several times counts with the mean of its runs.
    """
    capture = Capture(model, layers, ["information"])
    with torch.no_grad(), capture.run() as captured:
        row_losses(model, batch)
    has_cross = any(layer.kind == "cross" for layer in layers)
    by_path = {layer.path: layer for layer in layers}
    sums = {}
    for path, calls in captured.values.get("information", {}).items():
        masks = [_query_mask(valid, by_path[path], batch, has_cross) for valid in captured.values["valid"][path]]
        runs = [_sum_over_rows(values.double(), mask, batch) for values, mask in zip(calls, masks, strict=True)]
        sums[path] = torch.stack(runs).mean(0)
    return sums


def _query_mask(valid: torch.Tensor, layer: AttentionLayer, batch: Batch, has_cross: bool) -> torch.Tensor:
    """Return [items, queries], True where a query is not padding.

    No attention mask says what pads the decoder of an encoder-decoder; its targets do, which are -100 there.
    """
    targets: Any = batch.inputs.get("labels")
    if has_cross and layer.side == "decoder" and isinstance(targets, torch.Tensor) and targets.shape == valid.shape:
        return valid & (targets != -100).to(valid.device)
    return valid


def _sum_over_rows(values: torch.Tensor, mask: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Reduce [entries, heads, queries] to [heads]: the mean of each row, summed over the rows."""
    weight = mask[:, None, :].to(values)
    by_entry = (values * weight).sum(-1) / weight.sum(-1).clamp(min=1)
    entries_per_item, rest = divmod(len(by_entry), len(batch))
    if rest:  # the task ran its rows in parts of its own
        return by_entry.mean(0) * batch.row_count
    by_item = by_entry.unflatten(0, (len(batch), entries_per_item)).mean(1)
    row_index = torch.tensor(batch.rows, device=values.device)
    sums = by_item.new_zeros(batch.row_count, by_item.shape[1]).index_add(0, row_index, by_item)
    return (sums / torch.bincount(row_index, minlength=batch.row_count)[:, None]).sum(0)
