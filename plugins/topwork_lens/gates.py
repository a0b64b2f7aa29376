"""Gates: a factor on the output of each attention head, put on the input of the output projection.

A factor of 0 masks an attention head, a leaf tensor that requires grad gives its importance: the gradient of a gate
is sum(context * dL/dcontext) exactly (Michel et al. 2019, section 2.3). This works with every attention implementation,
because no kernel is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, UsageError
from topwork_lens.layers.state import noted, write
from topwork_lens.layers.torch_mha import is_folded, stay_unfolded, unfolded
from topwork_lens.refusals import refuse


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a path ("" is the model itself)."""
    return model.get_submodule(path)


def output_projection(model: nn.Module, layer: AttentionLayer) -> nn.Module:
    """The module whose input is the context of `layer`."""
    return module_at(model, ".".join(part for part in (layer.path, layer.output) if part))


def split_heads(layer: AttentionLayer, context: torch.Tensor) -> torch.Tensor:
    """[items, ..., heads * width] -> [items, ..., heads, width], heads as the layer has them now."""
    if layer.split is not None:
        return layer.split(context)
    return context.unflatten(-1, (len(layer.kept or ()), layer.width))


def merge_heads(layer: AttentionLayer, context: torch.Tensor) -> torch.Tensor:
    """The inverse of `split_heads`."""
    return layer.merge(context) if layer.merge is not None else context.flatten(-2)


def apply_gate(layer: AttentionLayer, context: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The context times the gates.

    Args:
        factors: [heads], or [items, heads], or [items, positions, heads], heads as the layer has them now. A context
            with several windows an item (item by item) repeats the gates of the item.
    """
    heads = split_heads(layer, context)
    if factors.dim() > 1:
        if heads.shape[0] % factors.shape[0]:
            raise refuse(
                "batch_coupled",
                f"the context has {heads.shape[0]} entries for {factors.shape[0]} items",
                place=layer.path,
                hint="score one row at a time",
            )
        factors = factors.repeat_interleave(heads.shape[0] // factors.shape[0], dim=0)
        between = heads.dim() - 1 - factors.dim()
        factors = factors.reshape(*factors.shape[:-1], *([1] * between), factors.shape[-1])
    return merge_heads(layer, heads * factors.unsqueeze(-1).to(heads))


def first_input(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """The tensor that a projection was called with."""
    return args[0] if args else next(iter(kwargs.values()))


def with_first_input(args: tuple, kwargs: dict[str, Any], value: torch.Tensor) -> tuple[tuple, dict[str, Any]]:
    """The same call with another tensor."""
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): value}


class GateHook:
    """A forward pre-hook that multiplies the context by gates; counts its calls, survives `copy.deepcopy`."""

    def __init__(self, layer: AttentionLayer, factors: torch.Tensor | Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.layer, self.factors, self.calls = layer, factors, 0

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.calls += 1
        context = first_input(args, kwargs)
        factors = self.factors if isinstance(self.factors, torch.Tensor) else self.factors(context)
        if not self.layer.kept:
            return args, kwargs
        return with_first_input(args, kwargs, apply_gate(self.layer, context, factors))


class KeptGate(GateHook):
    """A gate that stays on the model and is saved with it."""


def factors_of(layer: AttentionLayer, masked: Sequence[int]) -> torch.Tensor:
    """[heads now]: 0 for the masked original numbers, 1 for the others."""
    gone = set(masked)
    return torch.tensor([0.0 if number in gone else 1.0 for number in layer.kept or ()])


def now_of(layer: AttentionLayer, factors: Any) -> torch.Tensor:
    """[..., original heads] -> [..., heads now], differentiably.

    Raises:
        UsageError: another number of factors than the layer has attention heads.
    """
    given = factors if isinstance(factors, torch.Tensor) else torch.tensor([float(factor) for factor in factors])
    if given.dim() == 0 or given.shape[-1] != layer.heads:
        size = given.shape[-1] if given.dim() else 1
        raise UsageError(f"{size} gates for {layer.heads} attention heads", place=layer.path)
    if not layer.removed:
        return given
    return given[..., torch.tensor(layer.kept or (), dtype=torch.long, device=given.device)]


@contextmanager
def gated(
    model: nn.Module, gates: Mapping[str, tuple[AttentionLayer, Any]], *, prepend: bool = False
) -> Iterator[dict[str, GateHook]]:
    """Put gates on layers, by path, for the time of the block.

    Raises:
        Refused: the model ran inside the block, but a gate's output projection was never called.
    """
    hooks: dict[str, GateHook] = {}
    runs = [0]

    def count(module: nn.Module, *_: Any) -> None:
        runs[0] += 1

    with ExitStack() as stack:
        stack.enter_context(unfolded([module_at(model, path) for path in gates]))
        stack.callback(model.register_forward_hook(count).remove)
        for path, (layer, factors) in gates.items():
            hook = hooks[path] = GateHook(layer, factors)
            target = output_projection(model, layer)
            handle = target.register_forward_pre_hook(hook, with_kwargs=True, prepend=prepend)
            stack.callback(handle.remove)
        yield hooks
    if runs[0]:
        for path, hook in hooks.items():
            if not hook.calls:
                raise refuse("not_run", "the model ran, but the output projection under the gate did not", place=path)


def keep_gates(model: nn.Module, layer: AttentionLayer, factors: Sequence[float]) -> None:
    """Put gates on a layer that stay and are saved: one factor for each original attention head.

    They replace the gates that the layer had.
    """
    write(model, "gates", layer, [float(factor) for factor in factors])
    refresh_gates(model, layer)


def refresh_gates(model: nn.Module, layer: AttentionLayer) -> None:
    """Make the kept gate of a layer fit the attention heads that it has now."""
    projection = output_projection(model, layer)
    hooks = cast(dict[int, Any], projection._forward_pre_hooks)
    for number in [number for number, hook in hooks.items() if isinstance(hook, KeptGate)]:
        hooks.pop(number)
        projection._forward_pre_hooks_with_kwargs.pop(number, None)
    factors = kept_gates(model, layer)
    if factors is not None:
        module = module_at(model, layer.path)
        if is_folded(module):
            stay_unfolded(module)
        chosen = torch.tensor([factors[number] for number in layer.kept or ()])
        projection.register_forward_pre_hook(KeptGate(layer, chosen), with_kwargs=True, prepend=True)


def kept_gates(model: nn.Module, layer: AttentionLayer) -> list[float] | None:
    """The factors, by original number, that stay on a layer; None when there are none."""
    return noted(model, "gates", layer.path)
