"""Norm-based attention (Kobayashi et al. 2020, "Attention is not only a weight").

Entry points: `norm_attention` and `transformed_values`. The output of an attention layer is the sum over keys and
attention heads of the weight times f(x) = (x W_v + b_v) W_o; the norm of a summand says what really arrives.
"""

from __future__ import annotations

import torch
from torch import nn

from topwork import AttentionLayer
from topwork_lens.activations.shares import head_shares
from topwork_lens.layers.context import merge_heads, output_projection


def transformed_values(model: nn.Module, layer: AttentionLayer, values: torch.Tensor) -> torch.Tensor:
    """Return f(x) of each attention head and key, without the bias of the output projection.

    Args:
        model: the model.
        layer: one of its attention layers.
        values: [items, heads or groups, keys, width] of the layer, as captured under "value".

    Returns:
        [items, heads, keys, width of the output].
    """
    count = len(layer.kept)
    each = values.repeat_interleave(count // values.shape[1], 1) if values.shape[1] != count else values
    context = merge_heads(layer, each.transpose(1, 2))
    return head_shares(output_projection(model, layer), layer, context).movedim(-2, 1)


def norm_attention(weights: torch.Tensor, transformed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norms of what keys give to queries.

    Args:
        weights: [items, heads, queries, keys].
        transformed: [items, heads, keys, width], of `transformed_values`.

    Returns:
        (by attention head [items, heads, queries, keys], of the sum over attention heads [items, queries, keys]).
    """
    by_head = weights * transformed.norm(dim=-1)[:, :, None]
    together = torch.stack(
        [
            torch.einsum("hqk,hkd->qkd", item_weights, item_values).norm(dim=-1)
            for item_weights, item_values in zip(weights, transformed)
        ]
    )
    return by_head, together
