"""Shares of the residual stream: W_o^h c_h, what each attention head adds through its columns of the output projection.

Entry point: `head_shares`. The shares of all attention heads and the projection's bias add up to its output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer
from topwork_lens.layers.context import merge_heads, split_heads
from topwork_lens.layers.projections import is_pointwise


def head_shares(projection: nn.Module, layer: AttentionLayer, context: torch.Tensor) -> torch.Tensor:
    """Return what each attention head adds to the output of its layer.

    Args:
        projection: the output projection; its hooks are not called.
        layer: the attention layer.
        context: input of the projection.

    Returns:
        [items, ..., heads, width of the output], heads as the layer has them now.
    """
    heads = split_heads(layer, context)
    without = _project(projection, torch.zeros_like(context))
    parts = []
    for index in range(heads.shape[-2]):
        selected = torch.zeros(heads.shape[-2], 1, dtype=heads.dtype, device=heads.device)
        selected[index] = 1
        parts.append(_project(projection, merge_heads(layer, heads * selected)) - without)
    return torch.stack(parts, -2) if parts else without.unsqueeze(-2)[..., :0, :]


def channels_last(projection: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Return the output of a projection with its features in the last dimension."""
    return output.movedim(1, -1) if is_pointwise(projection) else output


def as_written(projection: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Invert `channels_last`."""
    return output.movedim(-1, 1) if is_pointwise(projection) else output


def _project(projection: Any, context: torch.Tensor) -> torch.Tensor:
    return channels_last(projection, projection.forward(context))
