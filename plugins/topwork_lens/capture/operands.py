"""Operands of attention computations, read and replaced: queries, keys, values, scores before the softmax, weights.

Entry point: `operands_tapped`. An operand is what the computation multiplies: behind rotary positions and the model's
own scaling; scores are what the softmax is given, with mask and position bias. Where a kernel computes everything in
one call, scores and weights are computed again by the module's own eager function; who replaces them makes the model go
on with that computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from topwork import AttentionLayer
from topwork_lens.activations.hooks import Hook
from topwork_lens.activations.sites import Site
from topwork_lens.activations.states import Visit
from topwork_lens.capture.interception import recomputation
from topwork_lens.capture.interface import InterfaceCall, observing_interface
from topwork_lens.capture.tensors import (
    Mask,
    argument,
    by_heads,
    factors_of_product,
    merged_items,
    merged_weights,
    split_items,
    with_arguments,
)
from topwork_lens.capture.tracing import (
    PRODUCTS,
    SOFTMAX,
    SoftmaxTracer,
    is_computed_product,
    is_scored,
    mark_weights,
    replace_computation,
    weighing_operand,
)
from topwork_lens.layers.context import module_at
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope, eager_when_compiled


@dataclass(frozen=True)
class _Tap:
    """Visits of one block.

    Args:
        sites: by the id of the attention module, then by name of the operand.
        visit: called with a site and its operand.
        edits: whether it may replace anything.
        in_graph: whether gradients of scores or weights are wanted.
        scope: where it is in force.
    """

    sites: dict[int, dict[str, Site]]
    visit: Visit
    edits: bool
    in_graph: bool
    scope: Scope


#: what visits operands in this thread or task
_VISITING: ContextVar[_Operands | None] = ContextVar("topwork_lens_operands", default=None)


@contextmanager
def operands_tapped(
    model: nn.Module, sites: Sequence[Site], visit: Visit, *, edits: bool, in_graph: bool = False
) -> Iterator[None]:
    """Pass operands of attention computations to `visit`, for the time of the block; in this thread or task.

    Operands are edited before they are read, whatever order the blocks were entered in.

    Args:
        model: the model.
        sites: of operands.
        visit: called with a site and [items, heads or groups, positions, width], or [items, heads, queries, keys]; what
            it returns replaces the operand, unless it is None.
        edits: whether `visit` may replace anything.
        in_graph: whether gradients of scores or weights are wanted: the model then goes on with what is recomputed.
    """
    if not sites:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(eager_when_compiled())
        stack.enter_context(unfolded([module_at(model, path) for path in dict.fromkeys(site.path for site in sites)]))
        tap = _Tap({}, visit, edits, in_graph, stack.enter_context(Scope()))
        for site in sites:
            tap.sites.setdefault(id(module_at(model, site.path)), {})[site.name] = site
        visiting = _VISITING.get()
        if visiting is None:
            visiting = _Operands()
            _VISITING.set(visiting)
            stack.callback(_VISITING.set, None)
            stack.enter_context(observing_interface(visiting.called, edits=True))
            stack.enter_context(_OperandTracer(visiting))
        stack.enter_context(visiting.with_tap(tap))
        for site in {site.path: site for site in sites}.values():
            layer, around = cast(AttentionLayer, site.layer), module_at(model, site.path)
            for module in around.modules():
                visiting.owner[id(module)] = (id(around), layer)
                enter, leave = visiting.hooks(tap.scope, id(around), layer)
                stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


class _Operands:
    """Visits of the operands of all blocks of a thread or task."""

    def __init__(self) -> None:
        self.taps: list[_Tap] = []
        #: by the id of a module: id of the attention module around it, and the layer
        self.owner: dict[int, tuple[int, AttentionLayer]] = {}
        self.inside: list[tuple[int, AttentionLayer]] = []
        #: numbers in the first product of an attention module, by its id, while it runs
        self.products: dict[int, int] = {}
        self.busy = False

    @contextmanager
    def with_tap(self, tap: _Tap) -> Iterator[None]:
        """Add a tap for the time of the block."""
        self.taps.append(tap)
        try:
            yield
        finally:
            self.taps.remove(tap)

    def hooks(self, scope: Scope, key: int, layer: AttentionLayer) -> tuple[Hook, Hook]:
        """Return the hooks that note that an attention module runs, and that it has run."""

        def enter(*_: Any) -> None:
            if all(outer != key for outer, _ in self.inside):
                self.products.pop(key, None)
            self.inside.append((key, layer))

        def leave(*_: Any) -> None:
            if self.inside:
                self.inside.pop()

        return Hook(scope, enter), Hook(scope, leave)

    def running(self) -> tuple[int, AttentionLayer] | None:
        """Return the layer whose own code runs now, if it is one to look at."""
        if self.busy or not self.inside or not self.inside[-1][1].kept:
            return None
        return self.inside[-1]

    def _active(self, key: int) -> list[_Tap]:
        """Return taps of an attention module: those that edit, in the order of their entering, then the others."""
        active = [tap for tap in self.taps if key in tap.sites and tap.scope.active]
        return sorted(active, key=lambda tap: not tap.edits)

    def wants(self, key: int, *names: str) -> bool:
        """Return whether any of these operands of an attention module is visited."""
        return any(name in tap.sites[key] for tap in self._active(key) for name in names)

    def edits(self, key: int) -> bool:
        """Return whether operands of an attention module may be replaced."""
        return any(tap.edits for tap in self._active(key))

    def in_graph(self, key: int) -> bool:
        """Return whether the model goes on with recomputed weights in any case."""
        return any(tap.in_graph for tap in self._active(key))

    def goes_on(self, key: int) -> bool:
        """Return whether the model may go on with recomputed weights."""
        return self.edits(key) or self.in_graph(key)

    def visited(self, key: int, name: str, value: torch.Tensor) -> torch.Tensor:
        """Return an operand, or what replaces it."""
        with torch._C.DisableTorchFunction():  # what is computed here is no attention
            for tap in self._active(key):
                site = tap.sites[key].get(name)
                changed = None if site is None else tap.visit(site, value)
                value = value if changed is None else changed
        return value

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Look at nothing that is computed in the block."""
        busy, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = busy

    def called(self, call: InterfaceCall, run: Callable[[InterfaceCall], Any]) -> Any:
        """Visit the operands of a call of the attention interface."""
        owner, layer = self.owner.get(id(call.module), (0, None))
        if layer is None or self.busy or not self._active(owner) or not layer.kept:
            return run(call)
        with self.aside():
            names = ("query", "key", "value")
            query, key, value = (
                self.visited(owner, name, state) for name, state in zip(names, call.states, strict=True)
            )
            call = replace(call, states=(query, key, value)) if self.edits(owner) else call
            if self.wants(owner, "scores", "weights"):
                call = self._with_weights(owner, layer, call)
            return run(call)

    def _with_weights(self, owner: int, layer: AttentionLayer, call: InterfaceCall) -> InterfaceCall:
        """Visit scores and weights of a call; return the call with those as its weights, where the model goes on so."""
        again = recomputation(layer, call)
        _require_no_dropout(layer, again.dropped and self.goes_on(owner))
        softmax = _SoftmaxVisit(self, owner, call.states[1].shape[2])
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.goes_on(owner)), softmax:
            context, weights = again.block(0, call.states[0].shape[2])
        if not softmax.calls:
            raise refuse("no_weights", "the eager function of this layer calls no softmax", place=layer.path)
        if not (self.in_graph(owner) or softmax.changed):
            return call
        return replace(call, attend=lambda *_, **__: (context, weights), weights=weights)

    def kernel(self, owner: int, layer: AttentionLayer, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Visit the operands of a direct call of `scaled_dot_product_attention`; return its output."""
        given = dict(zip(_SDPA, args, strict=False)) | kwargs
        originals = [given[name] for name in _SDPA[:3]]
        states = [split_items(state, len(layer.kept)) for state in originals]
        compute = functional.scaled_dot_product_attention
        if any(state is None for state in states):
            return compute(**given)
        query, key, value = (
            self.visited(owner, name, cast(torch.Tensor, state)) for name, state in zip(_SDPA, states, strict=False)
        )
        if self.edits(owner):
            edited = zip(_SDPA, originals, (query, key, value), strict=False)
            given |= {name: merged_items(before, after, len(layer.kept)) for name, before, after in edited}
        output = compute(**given)
        if self.wants(owner, "scores", "weights"):
            _require_no_dropout(layer, float(given.get("dropout_p") or 0.0) > 0 and self.goes_on(owner))
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.goes_on(owner)):
                with torch._C.DisableTorchFunction():
                    weights, value, changed = self._direct(owner, query, key, value, given)
                goes_on = changed or self.in_graph(owner)
                if goes_on:
                    mark_weights(weights)
                    context = weights @ value
            if goes_on:
                replace_computation(torch.matmul, (weights, value), {})
                return _reshaped(context, originals[0])
        # Last: any function of torch that runs in between would be taken for the replacement.
        replace_computation(compute, (), given)
        return output

    def _direct(
        self, owner: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, given: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Return weights by the kernel's definition, values by attention head, and whether something was replaced."""
        mask = given.get("attn_mask")
        if mask is not None and mask.dim() == 3:
            mask = split_items(mask, query.shape[1])
        queries, keys = query.shape[2], key.shape[2]
        masked = Mask(mask, bool(given.get("is_causal")), (queries, keys), query)
        scale = given.get("scale")
        times = query.shape[1] // key.shape[1] if given.get("enable_gqa") else 1
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        bias = masked.added(0, queries)
        scores = scores if bias is None else scores + bias
        weights = (edited := self.visited(owner, "scores", scores)).softmax(-1)
        last = self.visited(owner, "weights", weights)
        return last, value, edited is not scores or last is not weights

    def product(self, owner: int, layer: AttentionLayer, function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Visit the operands of a product that a module computes itself; return its output."""
        names = factors_of_product(function, args, kwargs)
        operands = [] if names is None else [argument(name, args, kwargs) for name in names]
        if names is None or not all(isinstance(operand, torch.Tensor) for operand in operands):
            return function(*args, **kwargs)
        left, right = operands
        if weighing_operand(operands) is left:
            right = self._in_items(owner, layer, "value", right)
        elif owner not in self.products and is_computed_product(function, operands):
            self.products[owner] = left.shape[:-1].numel() * right.shape[-1]
            left = self._in_items(owner, layer, "query", left)
            transposed = right.transpose(-1, -2)
            key = self._in_items(owner, layer, "key", transposed)
            right = right if key is transposed else key.transpose(-1, -2)
        if left is operands[0] and right is operands[1]:
            return function(*args, **kwargs)
        args, kwargs = with_arguments(names, (left, right), args, kwargs)
        output = function(*args, **kwargs)
        replace_computation(function, args, kwargs)
        return output

    def _in_items(self, owner: int, layer: AttentionLayer, name: str, value: torch.Tensor) -> torch.Tensor:
        heads = len(layer.kept)
        split = split_items(value, heads)
        changed = None if split is None else self.visited(owner, name, split)
        return value if changed is None or changed is split else merged_items(value, changed, heads)

    def softmax(self, owner: int, layer: AttentionLayer, function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Visit what a softmax of scores is given and returns; return its output."""
        if not self.wants(owner, "scores", "weights") or by_heads(args[0], len(layer.kept)) is None:
            return function(*args, **kwargs)
        if self.wants(owner, "query", "key") and self.products.get(owner) != args[0].numel():
            cause = "the first product of this layer is not that of queries and keys"
            raise refuse("no_weights", cause, place=layer.path)
        scores = self._in_heads(owner, layer, "scores", args[0])
        return self._in_heads(owner, layer, "weights", function(scores, *args[1:], **kwargs))

    def _in_heads(self, owner: int, layer: AttentionLayer, name: str, value: torch.Tensor) -> torch.Tensor:
        heads = len(layer.kept)
        split = cast(torch.Tensor, by_heads(value, heads))
        changed = self.visited(owner, name, split)
        return value if changed is split else merged_weights(value, changed, heads)


def _reshaped(context: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        return context.reshape(*query.shape[:-1], context.shape[-1])


def _require_no_dropout(layer: AttentionLayer, dropped: bool) -> None:
    if dropped:
        cause = "attention dropout is at work, and the recomputed weights that the model goes on with go without it"
        raise refuse("no_gradient", cause, place=layer.path, hint="model.eval(), or attention dropout 0")


_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class _OperandTracer(SoftmaxTracer):
    """Mode that visits what modules compute themselves, by torch's kernel or step by step."""

    def __init__(self, taps: _Operands) -> None:
        super().__init__(lambda *_: None)
        self.taps = taps

    def compute(self, function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        running = self.taps.running()
        if running is None:
            return function(*args, **kwargs)
        if function is functional.scaled_dot_product_attention:
            return self.taps.kernel(*running, args, kwargs)
        if function in PRODUCTS:
            return self.taps.product(*running, function, args, kwargs)
        if function in SOFTMAX and args and is_scored(args[0]):
            return self.taps.softmax(*running, function, args, kwargs)
        return function(*args, **kwargs)


class _SoftmaxVisit(TorchFunctionMode):
    """Mode that visits the first softmax of an eager function.

    Args:
        taps: what visits.
        owner: id of the attention module whose function it is.
        keys: how many there are; a learned sink may stand behind them, and is left as it is.
    """

    def __init__(self, taps: _Operands, owner: int, keys: int) -> None:
        super().__init__()
        self.taps, self.owner, self.keys, self.calls = taps, owner, keys, 0
        self.changed = False

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        # What is computed here is not traced by modes below.
        with torch._C.DisableTorchFunction():
            if function not in SOFTMAX or self.calls or not args or args[0].dim() != 4:
                return function(*args, **kwargs)
            self.calls += 1
            scores = self._visited("scores", args[0])
            return self._visited("weights", function(scores, *args[1:], **kwargs))

    def _visited(self, name: str, value: torch.Tensor) -> torch.Tensor:
        beyond = value[..., self.keys :]
        of_keys = value[..., : self.keys] if beyond.shape[-1] else value
        changed = self.taps.visited(self.owner, name, of_keys)
        if changed is of_keys:
            return value
        self.changed = True
        return torch.cat([changed, beyond], -1) if beyond.shape[-1] else changed
