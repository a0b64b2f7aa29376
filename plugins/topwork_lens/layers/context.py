"""The context of an attention layer, which is the input of its output projection, split into heads; that of a block."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Block
from topwork_lens.layers.architectures import UNPROJECTED

#: what can be gated and pruned: attention heads of a layer, or neurons of a block
Unit = AttentionLayer | Block


def module_at(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path ("" is the model itself)."""
    return model.get_submodule(path)


def is_gateable(layer: AttentionLayer) -> bool:
    """Return False for a layer without an output projection, whose attention heads cannot be told apart."""
    return layer.pattern != UNPROJECTED


def output_projection(model: nn.Module, layer: Unit) -> nn.Module:
    """Return the module whose input is the context of `layer`."""
    return module_at(model, ".".join(part for part in (layer.path, layer.output) if part))


def split_heads(layer: Unit, context: torch.Tensor) -> torch.Tensor:
    """Split a context [items, ..., heads * width] -> [items, ..., heads, width], heads as the layer has them now."""
    if layer.split is not None:
        return layer.split(context)
    width = layer.width if isinstance(layer, AttentionLayer) else 1
    return context.unflatten(-1, (len(layer.kept), width))


def merge_heads(layer: Unit, context: torch.Tensor) -> torch.Tensor:
    """Invert `split_heads`."""
    return layer.merge(context) if layer.merge is not None else context.flatten(-2)


def first_input(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the tensor that a projection was called with."""
    return args[0] if args else next(iter(kwargs.values()))


def with_first_input(args: tuple, kwargs: dict[str, Any], value: torch.Tensor) -> tuple[tuple, dict[str, Any]]:
    """Return the same call with another tensor."""
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): value}
