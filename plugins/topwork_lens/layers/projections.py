"""Projections: which modules count as one, and along which dimensions of weight and context their features lie.

Linear and Conv1D, convolutions with a kernel of 1, and modules that divide a weight among groups or experts. Images and
audio often stay channels first: then attention heads lie along the second dimension of the context.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


def is_projection(value: Any) -> bool:
    """Return True for a module that maps the features of each position.

    Linear, Conv1D, a convolution with a kernel of 1, and what behaves like them; also experts with such a weight each.
    """
    weight = getattr(value, "weight", None)
    if not isinstance(value, nn.Module):
        return False
    if not isinstance(weight, torch.Tensor):
        return is_packed(value)
    return weight.dim() == 2 or is_pointwise(value) or _has_experts(value)


def is_packed(value: Any) -> bool:
    """Return True for a quantised linear layer of torch, whose weight is unpacked by a method."""
    sizes = (getattr(value, "out_features", None), getattr(value, "in_features", None))
    return callable(getattr(value, "weight", None)) and all(type(size) is int for size in sizes)


def weight_shape(projection: Any) -> torch.Size:
    """Return the shape of a projection's weight."""
    packed = hasattr(projection.weight, "quant_state")  # bitsandbytes keeps two weights of 4 bits in a byte
    if isinstance(projection.weight, torch.Tensor) and not packed:
        return projection.weight.shape
    return torch.Size((projection.out_features, projection.in_features))


def is_pointwise(value: Any) -> bool:
    """Return True for a convolution with a kernel of 1."""
    convolution = isinstance(value, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return convolution and all(size == 1 for size in value.kernel_size)


def _has_experts(value: Any) -> bool:
    """Return whether the weight is [experts, output features, input features]."""
    experts = getattr(value, "num_experts", None)
    return isinstance(experts, int) and len(weight_shape(value)) == 3 and weight_shape(value)[0] == experts


def output_dim(projection: nn.Module) -> int:
    """Return the dimension of a projection's weight along which its output features lie."""
    return 1 if hasattr(projection, "nf") or _has_experts(projection) else 0


def input_dim(projection: nn.Module) -> int:
    """Return the dimension of a projection's weight along which its input features lie."""
    return 2 if _has_experts(projection) else 1 - output_dim(projection)


def features(projection: Any) -> int:
    """Return the number of output features of a projection."""
    return weight_shape(projection)[output_dim(projection)]


def shared_out(projection: Any) -> int:
    """Return into how many groups a projection divides its input features, each with rows of the weight for itself."""
    groups = getattr(projection, "groups", None) if is_pointwise(projection) else getattr(projection, "n_groups", None)
    return groups if isinstance(groups, int) and groups > 1 else 1


def context_of(projection: Any, heads: int, width: int, pieces: int = 1) -> dict[str, Any]:
    """Return the `split` and `merge` of an `AttentionLayer` for the input of an output projection.

    Args:
        projection: the output projection.
        heads: attention heads that the layer has now.
        width: width of one attention head.
        pieces: how many equal pieces the context has, each of them with something of every attention head.

    Returns:
        Keyword arguments; none when the last dimension of the context holds the attention heads one after another.
    """
    if pieces > 1 and heads:
        return {"split": partial(split_pieces, heads, pieces), "merge": partial(merge_pieces, pieces)}
    if is_pointwise(projection):
        return {"split": partial(split_channels, heads, width), "merge": merge_channels}
    if shared_out(projection) > 1:
        groups = shared_out(projection)
        return {"split": partial(split_groups, heads, width), "merge": partial(merge_groups, groups)}
    return {}


def split_channels(heads: int, width: int, context: torch.Tensor) -> torch.Tensor:
    """Split a context [items, heads * width, ...] -> [items, ..., heads, width]."""
    return context.movedim(1, -1).unflatten(-1, (heads, width))


def merge_channels(heads: torch.Tensor) -> torch.Tensor:
    """Invert `split_channels`."""
    return heads.flatten(-2).movedim(-1, 1)


def split_groups(heads: int, width: int, context: torch.Tensor) -> torch.Tensor:
    """Split a context [items, ..., groups, heads of a group * width] -> [items, ..., heads, width]."""
    return context.flatten(-2).unflatten(-1, (heads, width))


def merge_groups(groups: int, heads: torch.Tensor) -> torch.Tensor:
    """Invert `split_groups`."""
    return heads.flatten(-2).unflatten(-1, (groups, -1))


def split_pieces(heads: int, pieces: int, context: torch.Tensor) -> torch.Tensor:
    """Split a context [items, ..., pieces * heads * width] -> [items, ..., heads, pieces * width]."""
    return context.unflatten(-1, (pieces, heads, -1)).transpose(-3, -2).flatten(-2)


def merge_pieces(pieces: int, heads: torch.Tensor) -> torch.Tensor:
    """Invert `split_pieces`."""
    return heads.unflatten(-1, (pieces, -1)).transpose(-3, -2).flatten(-3)
