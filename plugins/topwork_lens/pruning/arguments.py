"""Arguments with something for every original attention head, cut on the way into a layer that has fewer.

Entry point: `cut_arguments`. Biases by position, slopes and masks are often made once, outside of the attention layer,
for all attention heads that the configuration counts, and handed to every layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer

#: words in the name of an argument that may have something for each attention head
WORDS = ("mask", "bias", "alibi", "position", "pos", "slope")


class ArgumentCut:
    """Forward pre-hook that cuts arguments; an object, so that it survives `copy.deepcopy` of the model.

    Args:
        entries: name of an argument, its dimension of attention heads, and whether rows are folded into that
            dimension ([rows * heads, ...], as torch's multi-head attention has its masks).
        heads: how many attention heads the arguments have.
        kept: original numbers of those that the layer has.
    """

    def __init__(self, module: nn.Module, entries: Sequence[Sequence[Any]], heads: int, kept: Sequence[int]) -> None:
        self.entries, self.heads, self.kept = [tuple(entry) for entry in entries], heads, list(kept)
        self.names = names(module)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments with the entries of the attention heads that the layer has."""
        positional, named = list(args), dict(kwargs)
        for name, dim, folded in self.entries:
            if name in named:
                named[name] = self._selected(named[name], dim, folded)
            elif name in self.names[: len(positional)]:
                index = self.names.index(name)
                positional[index] = self._selected(positional[index], dim, folded)
        return tuple(positional), named

    def _selected(self, value: Any, dim: int, folded: bool) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() <= dim:
            return value
        index = torch.tensor(self.kept, dtype=torch.long, device=value.device)
        if folded and value.shape[dim] % self.heads == 0:
            apart = value.unflatten(dim, (-1, self.heads))
            return apart.index_select(dim + 1, index).flatten(dim, dim + 1)
        return value.index_select(dim, index) if not folded and value.shape[dim] == self.heads else value


def names(module: nn.Module) -> list[str]:
    """Return the names of the arguments of a module, in their order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def sliceable_in_all(
    layer: AttentionLayer, calls: Sequence[tuple[nn.Module, Sequence[Any], Mapping[str, Any]]]
) -> list[list[Any]]:
    """Return the arguments that may have something for each attention head in every call that gives them.

    A mask of [rows, queries, keys] looks as if attention heads were folded into its rows when the rows happen to be a
    multiple of them; calls with other numbers of rows show that they are not.

    Args:
        layer: the layer whose heads and key/value groups are counted.
        calls: module, positional and named arguments of each call.

    Returns:
        For each such argument: [name, dimension, folded].
    """
    tensors = [_tensors(*call) for call in calls]
    options = [_options(layer, given) for given in tensors]
    chosen: list[list[Any]] = []
    for option in (option for of_call in options for option in of_call):
        holds = all(option in of_call for given, of_call in zip(tensors, options, strict=True) if option[0] in given)
        if holds and option not in chosen:
            chosen.append(option)
    return chosen


def _tensors(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors among the arguments whose names say that they may have something for each attention head."""
    values = {**dict(zip(names(module), args, strict=False)), **kwargs}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and any(word in name for word in WORDS)
    }


def _options(layer: AttentionLayer, tensors: Mapping[str, torch.Tensor]) -> list[list[Any]]:
    options: list[list[Any]] = []
    for name, value in tensors.items():
        if value.dim() == 4 and value.shape[1] == layer.heads > 1:
            options.append([name, 1, False])
        elif value.dim() == 3 and value.shape[0] % layer.heads == 0 and layer.heads > 1:
            options.append([name, 0, True])
    return options


def cut_arguments(
    module: nn.Module, entries: Sequence[Sequence[Any]], heads: int, kept: Sequence[int]
) -> Callable[[], None]:
    """Cut arguments of a module from now on; return what takes that back."""
    hooks = cast(dict[int, Any], module._forward_pre_hooks)
    for hook in [hook for hook in hooks.values() if isinstance(hook, ArgumentCut)]:
        before = dict(vars(hook))
        vars(hook).update(vars(ArgumentCut(module, entries, heads, kept)))
        return lambda: vars(hook).update(before)
    handle = module.register_forward_pre_hook(ArgumentCut(module, entries, heads, kept), with_kwargs=True)
    return handle.remove
