"""Gates: a factor on the output of each attention head or neuron, put on the input of the projection that reads it.

Entry points: `gated` for the time of a block, `keep_gates` for good. A factor of 0 masks an attention head, a leaf
tensor that requires grad gives its importance: the gradient of a gate is sum(context * dL/dcontext) exactly (Michel et
al. 2019, section 2.3). This works with every attention implementation, because no kernel is touched. Layers that mix
their attention heads are refused (`head_slices`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Block, UsageError
from topwork_lens.activations.runs import Runs, checkpointing
from topwork_lens.capture.head_slices import heads_verified
from topwork_lens.layers.context import (
    Unit,
    first_input,
    merge_heads,
    module_at,
    output_projection,
    split_heads,
    with_first_input,
)
from topwork_lens.layers.state import Kind, noted, write
from topwork_lens.layers.torch_mha import is_folded, stay_unfolded, unfolded
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope, eager_when_compiled, forget_compiled


def apply_gate(layer: Unit, context: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply a context by gates.

    Args:
        layer: the attention layer, heads as it has them now.
        context: input of its output projection.
        factors: [heads], or [items, heads], or [items, positions, heads], heads as the layer has them now. A context
            with several windows an item (item by item) repeats the gates of the item.

    Raises:
        UsageError: the factors have other positions than the context.
        Refused: the factors have other items than the context.
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
        if factors.dim() > 2 and factors.shape[1:-1] != heads.shape[1 : factors.dim() - 1]:
            positions, given = tuple(heads.shape[1:-2]), tuple(factors.shape[1:-1])
            raise UsageError(f"gates for {given} positions, and the context has {positions}", place=layer.path)
        factors = factors.repeat_interleave(heads.shape[0] // factors.shape[0], dim=0)
        between = heads.dim() - 1 - factors.dim()
        factors = factors.reshape(*factors.shape[:-1], *([1] * between), factors.shape[-1])
    return merge_heads(layer, heads * factors.unsqueeze(-1).to(heads))


class GateHook:
    """Forward pre-hook that multiplies the context by gates; counts its calls, survives `copy.deepcopy`.

    Args:
        layer: the attention layer.
        factors: gates, or what makes them of the context.
        scope: where the gates are in force; None for everywhere. A copy of the model is outside of it.
    """

    def __init__(
        self,
        layer: Unit,
        factors: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
        scope: Scope | None = None,
    ) -> None:
        self.layer, self.factors, self.scope = layer, factors, scope
        self.calls = 0
        #: items of the batch that runs, where that is known
        self.items: int | None = None
        #: calls by gradient checkpointing whose backward pass has not run the layer again
        self.pending = 0

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Multiply the input of the output projection, as its forward pre-hook; None outside the scope."""
        if self.scope is not None and not self.scope.active:
            return None
        self.calls += 1
        if self.scope is not None:
            self.pending += checkpointing()
        if reads_by_weight(self.layer):
            self._scale_weight(module)
            return None
        context = first_input(args, kwargs)
        self._check_items()
        factors = self.factors if isinstance(self.factors, torch.Tensor) else self.factors(context)
        if not self.layer.kept:
            return args, kwargs
        return with_first_input(args, kwargs, apply_gate(self.layer, context, factors))

    def _scale_weight(self, module: nn.Module) -> None:
        """Let the module read its weight times the factors: an attribute of the object hides the parameter."""
        piece, factors = self.layer.slices[0], self.factors
        if not isinstance(factors, torch.Tensor) or factors.dim() != 1:
            cause = "experts see the tokens of all items together: a gate cannot be of one item"
            raise refuse("batch_coupled", cause, place=self.layer.path, hint="give one factor for each neuron")
        weight = module._parameters[piece.parameter]
        assert weight is not None
        shape = [1] * weight.dim()
        shape[piece.dim] = -1
        module.__dict__[piece.parameter] = weight * factors.to(weight).reshape(shape)

    def show_weight(self, module: nn.Module, *_: Any) -> None:
        """Let the module read its parameter again, as its forward hook."""
        module.__dict__.pop(self.layer.slices[0].parameter, None)

    def _check_items(self) -> None:
        if self.items is None or not isinstance(self.factors, torch.Tensor) or self.factors.dim() < 2:
            return
        if self.factors.shape[0] not in (1, self.items):
            cause = f"gates for {self.factors.shape[0]} items, and the batch has {self.items}"
            raise UsageError(cause, place=self.layer.path, hint="give [heads] for all items, or [items, heads]")


def reads_by_weight(layer: Unit) -> bool:
    """Return whether a factor acts on the weight that reads the neurons, not on the input of a projection."""
    return isinstance(layer, Block) and layer.gate == "weight"


class KeptGate(GateHook):
    """A gate that stays on the model and is saved with it."""


class Keeper:
    """Forward pre-hook of the modules around a projection: the kept gate lies on whatever stands there now.

    Adapters such as those of peft put a module of their own around a projection, which reads its input as well, and
    take it off again: on the old module, the gate would spare the adapter, or be lost.

    Args:
        gate: the kept gate.
        owner: the module of which the projection is a part; None where the projection is the whole model.
        name: of the projection in its owner.
        projection: that stands there now.
    """

    def __init__(self, gate: KeptGate, owner: nn.Module | None, name: str, projection: nn.Module) -> None:
        self.gate, self.owner, self.name = gate, owner, name
        self._put(projection)

    def keeps(self, projection: nn.Module) -> bool:
        """Return whether the gate is that of a projection."""
        return projection in (self.projection, self._standing())

    def _standing(self) -> nn.Module | None:
        return None if self.owner is None else self.owner._modules[self.name]

    def __call__(self, *_: Any) -> None:
        """Move the gate, where another module stands there than before."""
        standing = self._standing()
        if standing is not None and standing is not self.projection:
            self._move(standing)

    @torch.compiler.disable
    def _move(self, standing: nn.Module) -> None:
        for module in (self.projection, standing):
            _without(module, lambda hook: isinstance(hook, KeptGate))
        self._put(standing)

    def _put(self, projection: nn.Module) -> None:
        self.projection = projection
        projection.register_forward_pre_hook(self.gate, with_kwargs=True, prepend=True)


def _without(module: nn.Module, is_meant: Callable[[Any], bool], *, below: bool = True) -> bool:
    """Take pre-hooks off a module, and off what it is put around; return whether there were any."""
    removed = False
    for part in module.modules() if below else (module,):
        hooks = cast(dict[int, Any], part._forward_pre_hooks)
        for key in [key for key, hook in hooks.items() if is_meant(hook)]:
            hooks.pop(key)
            part._forward_pre_hooks_with_kwargs.pop(key, None)
            removed = True
    return removed


def factors_of(layer: Unit, masked: Sequence[int]) -> torch.Tensor:
    """Return [heads now]: 0 for the masked original indices, 1 for the others."""
    chosen = set(masked)
    with torch.inference_mode(False):  # an inference tensor could not be used where gradients are taken later
        return torch.tensor([0.0 if index in chosen else 1.0 for index in layer.kept])


def factors_now(layer: Unit, factors: Any) -> torch.Tensor:
    """Select [..., original heads or neurons] -> [..., those that there are now], differentiably.

    Raises:
        UsageError: no finite numbers, or another count than the layer has attention heads.
    """
    with torch.inference_mode(False):
        try:
            given = factors if isinstance(factors, torch.Tensor) else torch.tensor(factors, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            hint = f"give {layer.count} numbers, one for each {named(layer)}"
            raise UsageError(f"gates must be numbers, not {factors!r}", place=layer.path, hint=hint) from error
        if given.is_complex():
            raise UsageError("gates must be real numbers", place=layer.path)
        if given.dim() == 0 or given.shape[-1] != layer.count:
            size = given.shape[-1] if given.dim() else 1
            raise UsageError(f"{size} gates for {layer.count} {named(layer)}s", place=layer.path)
        if not 1 <= given.dim() <= 3 or not bool(given.detach().isfinite().all()):
            cause = f"gates of shape {tuple(given.shape)}" if given.dim() > 3 else "some gate is no finite number"
            hint = "give [heads], [items, heads] or [items, positions, heads]"
            raise UsageError(cause, place=layer.path, hint=hint)
        if not layer.removed:
            return given
        return given[..., torch.tensor(layer.kept, dtype=torch.long, device=given.device)]


def named(layer: Unit) -> str:
    """Return what a gate of a layer or block stands for."""
    return "attention head" if isinstance(layer, AttentionLayer) else "neuron"


@contextmanager
def gated(
    model: nn.Module, gates: Mapping[str, tuple[Unit, Any]], *, prepend: bool = False
) -> Iterator[dict[str, GateHook]]:
    """Put gates on layers, by path, for the time of the block; in force in this thread or task.

    A layer that does not run in the block is named in a warning.

    Raises:
        Refused: a layer mixes its attention heads; or it ran, but its output projection was never called, or it was
            called by gradient checkpointing whose backward pass did not run inside the block.
    """
    layers = [layer for layer, _ in gates.values()]
    hooks: dict[str, GateHook] = {}
    with ExitStack() as stack:
        stack.enter_context(heads_verified(model, [layer for layer in layers if isinstance(layer, AttentionLayer)]))
        stack.enter_context(eager_when_compiled())
        stack.enter_context(unfolded([module_at(model, path) for path in gates]))
        scope = stack.enter_context(Scope())
        runs = Runs(model, {path: path for path in gates}, scope, stack)
        for path, (layer, factors) in gates.items():
            hook = hooks[path] = GateHook(layer, factors, scope)
            target = output_projection(model, layer)
            handle = target.register_forward_pre_hook(hook, with_kwargs=True, prepend=prepend)
            stack.callback(handle.remove)
            if reads_by_weight(layer):
                stack.callback(target.register_forward_hook(hook.show_weight, always_call=True).remove)
        counting = functools.partial(_count_items, hooks, scope)
        stack.callback(model.register_forward_pre_hook(counting, with_kwargs=True, prepend=True).remove)
        yield hooks
    runs.check(hooks)


def _count_items(
    hooks: Mapping[str, GateHook], scope: Scope, model: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> None:
    if scope.active:
        name = getattr(model, "main_input_name", None)  # a list where a model has several
        main = kwargs.get(name) if isinstance(name, str) else None
        tensors = (value for value in (main, *args, *kwargs.values()) if isinstance(value, torch.Tensor))
        first = next((value for value in tensors if value.dim() > 1), None)
        for hook in hooks.values():
            hook.items = None if first is None else len(first)


def keep_gates(model: nn.Module, layer: Unit, factors: Sequence[float]) -> None:
    """Put gates on a layer or block that stay and are saved: one factor for each original attention head or neuron.

    They replace the gates that the layer had.

    Raises:
        Refused: these are experts, whose neurons are inputs of no projection.
    """
    if reads_by_weight(layer):
        cause = "a gate that stays lies on the input of a projection, and experts have none"
        raise refuse("unknown_layout", cause, place=layer.path, hint="prune these neurons, or mask them for a block")
    write(model, _kind_of(layer), layer, [float(factor) for factor in factors])
    refresh_gates(model, layer)


def refresh_gates(model: nn.Module, layer: Unit) -> None:
    """Make the kept gate of a layer fit the attention heads that it has now."""
    if reads_by_weight(layer):
        return
    path = ".".join(part for part in (layer.path, layer.output) if part)
    # The modules around the projection: of some models an inner one runs without its hooks, or the outer one does.
    names = path.split(".") if path else []
    parts = [module_at(model, ".".join(names[:count])) for count in range(len(names))]
    around = [part for part in parts if not isinstance(part, nn.ModuleList | nn.ModuleDict)]
    projection = output_projection(model, layer)
    before = _without(projection, lambda hook: isinstance(hook, KeptGate))
    for part in around:
        _without(part, lambda hook: isinstance(hook, Keeper) and hook.keeps(projection), below=False)
    factors = kept_gates(model, layer)
    if factors is not None:
        module = module_at(model, layer.path)
        if is_folded(module):
            stay_unfolded(module)
        with torch.inference_mode(False):
            chosen = torch.tensor([factors[index] for index in layer.kept])
        keeper = Keeper(KeptGate(layer, chosen), parts[-1] if parts else None, names[-1] if names else "", projection)
        for part in around:
            part.register_forward_pre_hook(keeper, prepend=True)
    if before or factors is not None:
        forget_compiled()


def kept_gates(model: nn.Module, layer: Unit) -> list[float] | None:
    """Return the factors, by original index, that stay on a layer; None when there are none."""
    return noted(model, _kind_of(layer), layer.path)


def _kind_of(layer: Unit) -> Kind:
    return "gates" if isinstance(layer, AttentionLayer) else "neuron_gates"
