"""What counts as a projection, and along which dimension of its weight its features lie.

Linear and Conv1D, convolutions that look at one place at a time, and what shares a weight out among groups or experts.
Images and sounds often stay channels first: then attention heads lie along the second dimension of the context.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


def is_projection(found: Any) -> bool:
    """True for a module that maps the features of each place: Linear, Conv1D, a convolution with a kernel of 1, and
    what behaves like them; also experts that have one such weight each."""
    weight = getattr(found, "weight", None)
    if not isinstance(found, nn.Module) or not isinstance(weight, torch.Tensor):
        return False
    return weight.dim() == 2 or is_pointwise(found) or _of_experts(found)


def is_pointwise(found: Any) -> bool:
    """True for a convolution that looks at one place at a time."""
    convolution = isinstance(found, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return convolution and all(size == 1 for size in found.kernel_size)


def _of_experts(found: Any) -> bool:
    """A weight [experts, output features, input features]."""
    experts = getattr(found, "num_experts", None)
    return isinstance(experts, int) and found.weight.dim() == 3 and found.weight.shape[0] == experts


def output_dim(projection: nn.Module) -> int:
    """The dimension of a projection's weight along which its output features lie."""
    return 1 if hasattr(projection, "nf") or _of_experts(projection) else 0


def input_dim(projection: nn.Module) -> int:
    """The dimension of a projection's weight along which its input features lie."""
    return 2 if _of_experts(projection) else 1 - output_dim(projection)


def features(projection: Any) -> int:
    """Output features of a projection."""
    return projection.weight.shape[output_dim(projection)]


def shared_out(projection: Any) -> int:
    """Into how many groups a projection shares out its input features, each with rows of the weight for itself."""
    groups = getattr(projection, "groups", None) if is_pointwise(projection) else getattr(projection, "n_groups", None)
    return groups if isinstance(groups, int) and groups > 1 else 1


def context_of(projection: Any, heads: int, width: int, pieces: int = 1) -> dict[str, Any]:
    """How the input of an output projection is split into attention heads: entries of an `AttentionLayer`, none when
    its last dimension holds them one after another.

    Args:
        pieces: how many equal pieces the context has, each of them with something of every attention head.
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
    """[items, heads * width, ...] -> [items, ..., heads, width]."""
    return context.movedim(1, -1).unflatten(-1, (heads, width))


def merge_channels(heads: torch.Tensor) -> torch.Tensor:
    """The inverse of `split_channels`."""
    return heads.flatten(-2).movedim(-1, 1)


def split_groups(heads: int, width: int, context: torch.Tensor) -> torch.Tensor:
    """[items, ..., groups, heads of a group * width] -> [items, ..., heads, width]."""
    return context.flatten(-2).unflatten(-1, (heads, width))


def merge_groups(groups: int, heads: torch.Tensor) -> torch.Tensor:
    """The inverse of `split_groups`."""
    return heads.flatten(-2).unflatten(-1, (groups, -1))


def split_pieces(heads: int, pieces: int, context: torch.Tensor) -> torch.Tensor:
    """[items, ..., pieces * heads * width] -> [items, ..., heads, pieces * width]."""
    return context.unflatten(-1, (pieces, heads, -1)).transpose(-3, -2).flatten(-2)


def merge_pieces(pieces: int, heads: torch.Tensor) -> torch.Tensor:
    """The inverse of `split_pieces`."""
    return heads.unflatten(-1, (pieces, -1)).transpose(-3, -2).flatten(-3)
