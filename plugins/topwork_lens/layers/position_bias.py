"""Adapters of pruning: corrections of a module that neither slices nor integers can describe.

Each is called as `adapter(module, kept)` after slicing, with the kept positions counted before it. Patterns of
`architectures` name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_ROWS = "_topwork_bias_rows"


class _BiasRows:
    """Pair of hooks that give a layer the rows of the position bias that belong to its remaining attention heads.

    The bias is made once, for all original attention heads, and handed from layer to layer; so it is cut on the way
    in and the whole one is handed on. Being an object, it survives `copy.deepcopy` of the model. Without the rows on
    the module it does nothing.
    """

    def __init__(self) -> None:
        self.whole: torch.Tensor | None = None

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        self.whole = kwargs.get("position_bias")
        if self.whole is None or getattr(module, _ROWS, None) is None:
            return args, kwargs
        return args, {**kwargs, "position_bias": cut_rows(module, self.whole)}

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> tuple:
        whole, self.whole = self.whole, None
        if getattr(module, _ROWS, None) is None:
            return output
        bias = output[1]
        if whole is None:
            # A layer without a table made zeros for the attention heads that it has: one row of zeros fits all layers.
            whole = bias.new_zeros(*[1] * (bias.dim() - 2), *bias.shape[-2:])
        elif bias.dim() == 5 and bias.shape[2]:
            # Local attention adds its mask, the same for all attention heads, to the bias that it made.
            whole = whole + (bias - cut_rows(module, whole))[:, :, :1]
        return (output[0], whole, *output[2:])


def cut_rows(module: nn.Module, bias: torch.Tensor) -> torch.Tensor:
    """Select the rows of the attention heads that the module has.

    Args:
        module: an attention module that was cut.
        bias: [1, original heads, queries, keys]; [1, 1, original heads, queries, keys] where attention is local.
    """
    dim = bias.dim() - 3
    rows = torch.tensor(getattr(module, _ROWS), dtype=torch.long, device=bias.device)
    return bias.index_select(dim, rows) if bias.shape[dim] > 1 else bias


class _MadeHere:
    """Replacement for `compute_bias` of the layer that owns the table: keeps the whole bias, returns some rows."""

    def __init__(self, module: nn.Module, rows: _BiasRows) -> None:
        self.module, self.rows = module, rows
        self.module_class: Any = type(module)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.rows.whole = self.module_class.compute_bias(self.module, *args, **kwargs)
        return cut_rows(self.module, self.rows.whole)


def shared_position_bias(module: nn.Module, kept: Sequence[int]) -> None:
    """Cut a position bias that one layer makes for all layers: per layer, at run time; the table stays whole."""
    attention: Any = module
    before = getattr(attention, _ROWS, None)
    setattr(attention, _ROWS, list(kept) if before is None else [before[position] for position in kept])
    owners = (getattr(hook, "__self__", None) for hook in attention._forward_pre_hooks.values())
    rows = next((owner for owner in owners if isinstance(owner, _BiasRows)), None)
    if rows is None:
        rows = _BiasRows()
        attention.register_forward_pre_hook(rows.before, with_kwargs=True)
        attention.register_forward_hook(rows.after, with_kwargs=True)
    if attention.has_relative_attention_bias:
        attention.compute_bias = _MadeHere(attention, rows)
