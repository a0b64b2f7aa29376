"""Named functions for what slices and integers cannot say about pruning an attention module.

Each is called as `adapter(module, kept)` after slicing, with the positions that were kept, counted before it. Rows of
`architectures.py` name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_ROWS = "_topwork_bias_rows"


class _BiasRows:
    """Gives a layer the rows of the position bias that belong to the attention heads it still has.

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
        own = output[1]
        if whole is None:
            # A layer without a table made zeros for the attention heads that it has: one row of zeros fits all layers.
            whole = own.new_zeros(*[1] * (own.dim() - 2), *own.shape[-2:])
        elif own.dim() == 5 and own.shape[2]:
            # Local attention adds its mask, the same for all attention heads, to the bias that it made.
            whole = whole + (own - cut_rows(module, whole))[:, :, :1]
        return (output[0], whole, *output[2:])


def cut_rows(module: nn.Module, bias: torch.Tensor) -> torch.Tensor:
    """[1, original heads, queries, keys] -> [1, heads that the module has, queries, keys]; [1, 1, heads, ...] where
    attention is local."""
    dim = bias.dim() - 3
    rows = torch.tensor(getattr(module, _ROWS), dtype=torch.long, device=bias.device)
    return bias.index_select(dim, rows) if bias.shape[dim] > 1 else bias


class _MadeHere:
    """The layer that owns the table computes the whole bias, keeps it to hand on, and uses its own rows of it."""

    def __init__(self, module: nn.Module, rows: _BiasRows) -> None:
        self.module, self.rows = module, rows
        self.own: Any = type(module)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.rows.whole = self.own.compute_bias(self.module, *args, **kwargs)
        return cut_rows(self.module, self.rows.whole)


def shared_position_bias(module: nn.Module, kept: Sequence[int]) -> None:
    """A position bias that one layer makes for all: cut per layer at run time, the table stays whole."""
    found: Any = module
    before = getattr(found, _ROWS, None)
    setattr(found, _ROWS, list(kept) if before is None else [before[position] for position in kept])
    owners = (getattr(hook, "__self__", None) for hook in found._forward_pre_hooks.values())
    rows = next((owner for owner in owners if isinstance(owner, _BiasRows)), None)
    if rows is None:
        rows = _BiasRows()
        found.register_forward_pre_hook(rows.before, with_kwargs=True)
        found.register_forward_hook(rows.after, with_kwargs=True)
    if found.has_relative_attention_bias:
        found.compute_bias = _MadeHere(found, rows)
