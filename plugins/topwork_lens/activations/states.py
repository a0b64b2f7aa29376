"""Hidden states of stacks, the norm after a stack, and the inputs of task heads: where they are read and replaced.

Entry points: `tap_states`, `tap_embeddings`, `tap_final_norm`, `tap_head_inputs`. A stack's states are the input of its
first layer, then the output of each. The final norm is a norm outside the stack that runs directly after its last
layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from topwork_lens.activations.hooks import Hook, Hooks
from topwork_lens.activations.sites import Site, is_norm
from topwork_lens.layers.context import module_at
from topwork_lens.layers.stacks import stacks_of
from topwork_lens.scope import Scope

#: called with a site and its activation; returns another one to go on with, or None
Visit = Callable[[Site, torch.Tensor], torch.Tensor | None]


def state_of(value: Any) -> torch.Tensor | None:
    """Return the hidden state that a layer takes or returns: a tensor, or the first of several."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if isinstance(value, dict) and value:
        value = next(iter(value.values()))
    return value if isinstance(value, torch.Tensor) else None


def with_state(value: Any, state: torch.Tensor) -> Any:
    """Return what a layer takes or returns with another hidden state."""
    if isinstance(value, list | tuple):
        parts = [state, *value[1:]]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        changed = copy.copy(value)
        changed[next(iter(value))] = state
        return changed
    return state


class _Stack:
    """States of one stack; its layers may run several times in a forward pass, as shared ones do."""

    def __init__(self, model: nn.Module, path: str, parts: Sequence[nn.Module], sites: Sequence[Site]) -> None:
        self.model, self.path, self.parts = model, path, list(parts)
        self.sites = {site.index: site for site in sites}
        self.count: int | None = None
        self.again = sites[0]

    def tap(self, hooks: Hooks, visit: Visit, inputs_only: bool) -> None:
        """Put hooks on the layers."""
        self.visit, self.inputs_only = visit, inputs_only
        hooks.before(self.model, self._begin, reads=True)
        for part in dict.fromkeys(self.parts):
            hooks.before(part, self._enter)
            if not inputs_only:
                hooks.after(part, self._leave)

    def _begin(self, *_: Any) -> None:
        self.count = None

    def _visited(self, state: torch.Tensor) -> torch.Tensor | None:
        index = self.count or 0
        site = self.sites.get(index)
        if site is None and index <= len(self.parts):
            return None
        # A shared layer has more states than the stack has modules.
        return self.visit(site or Site(self.again.name, self.path, self.path, index), state)

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self.count is not None:
            return None
        name = "hidden_states" if "hidden_states" in kwargs else None if args else next(iter(kwargs), None)
        value = args[0] if name is None and args else kwargs.get(name or "")
        state = state_of(value)
        if state is None:
            return None
        self.count = 0
        changed = self._visited(state)
        if changed is None:
            return None
        value = with_state(value, changed)
        return ((value, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: value})

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        state = state_of(output)
        if self.count is None or state is None:
            return None
        self.count += 1
        changed = self._visited(state)
        return None if changed is None else with_state(output, changed)


def tap_states(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    """Visit the hidden states of stacks; also of those runs of shared layers that no module stands for."""
    _tap_stacks(model, sites, visit, hooks, inputs_only=False)


def tap_embeddings(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    """Visit the input of the first layer of each stack."""
    _tap_stacks(model, sites, visit, hooks, inputs_only=True)


def _tap_stacks(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks, inputs_only: bool) -> None:
    for path, parts in stacks_of(model).items():
        chosen = [site for site in sites if site.path == path]
        if chosen:
            _Stack(model, path, parts, chosen).tap(hooks, visit, inputs_only)


class _After:
    """Modules that run outside the stacks after a stack: the norm directly after it, and task heads."""

    def __init__(self, model: nn.Module, visit: Visit) -> None:
        self.visit = visit
        self.stacks = stacks_of(model)
        #: the stack whose last layer ran, until something else with parameters runs
        self.pending: str | None = None
        self.started = False

    def watch(self, model: nn.Module, hooks: Hooks) -> None:
        """Note when a layer of a stack ran."""
        hooks.before(model, self._begin, reads=True)
        for path, parts in self.stacks.items():
            for part in dict.fromkeys(parts):
                hooks.before(part, self._clear, reads=True)
            hooks.after(parts[-1], self._ended(path), reads=True)

    def _begin(self, *_: Any) -> None:
        self.pending, self.started = None, False

    def _clear(self, *_: Any) -> None:
        self.pending = None

    def _ended(self, path: str) -> Callable[..., None]:
        def ended(*_: Any) -> None:
            self.pending, self.started = path, True

        return ended

    def norm(self, sites: dict[str, Site], module: nn.Module, *call: Any) -> Any:
        """Visit the output of a norm that runs directly after a stack."""
        site = sites.get(self.pending or "")
        self.pending = None
        output = call[-1]
        if site is None or not isinstance(output, torch.Tensor):
            return None
        return self.visit(site, output)

    def head(self, site: Site, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Visit the input of what runs after a stack."""
        name = None if args else next(iter(kwargs), None)
        value = args[0] if args else kwargs.get(name or "")
        state = state_of(value)
        changed = self.visit(site, state) if self.started and state is not None else None
        if changed is None:
            return None
        value = with_state(value, changed)
        return ((value, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: value})


def tap_final_norm(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    """Visit the outputs of the norms that run directly after stacks."""
    after = _After(model, visit)
    after.watch(model, hooks)
    by_path = {site.path: site for site in sites}
    inside = {id(below) for parts in after.stacks.values() for part in parts for below in part.modules()}
    for module in model.modules():
        if id(module) in inside:
            continue
        if is_norm(module):
            hooks.after(module, _bound(after.norm, by_path))
        elif next(module.parameters(recurse=False), None) is not None:
            hooks.before(module, after._clear, reads=True)


def closing_norms(model: nn.Module, paths: Sequence[str], scope: Scope, stack: ExitStack) -> dict[str, str]:
    """Note which norm of its own the last layer of a stack ends in, as in a post-norm model.

    Args:
        model: the model.
        paths: of stacks.
        scope: of the block.
        stack: closed at its end.

    Returns:
        Path of the stack -> path of the norm whose output the last layer returned; "" when it returned something else.
        Filled while the model runs.
    """
    ended: dict[str, str] = {}
    stacks, names = stacks_of(model), {id(module): path for path, module in model.named_modules()}

    def normed(outputs: dict[str, Any], module: nn.Module, args: tuple, output: Any) -> None:
        outputs[names[id(module)]] = output

    def returned(path: str, outputs: dict[str, Any], module: nn.Module, args: tuple, output: Any) -> None:
        state = state_of(output)
        ended[path] = next((norm for norm, value in outputs.items() if value is state), "")
        outputs.clear()

    for path in paths:
        outputs: dict[str, Any] = {}
        last = stacks[path][-1]
        for module in filter(is_norm, last.modules()):
            stack.callback(module.register_forward_hook(Hook(scope, partial(normed, outputs))).remove)
        stack.callback(last.register_forward_hook(Hook(scope, partial(returned, path, outputs))).remove)
    return ended


def without_final_norm(norm: str) -> str:
    """Return why a stack has no final norm, and where its last state is; see `closing_norms`."""
    if norm:
        return f"its last layer returns what the layer's own norm `{norm}` gave: the last of `hidden_states`"
    return "no norm runs directly after this stack: its last state is the last of `hidden_states`"


def tap_head_inputs(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    """Visit the inputs of task heads."""
    after = _After(model, visit)
    after.watch(model, hooks)
    for site in sites:
        hooks.before(module_at(model, site.path), _bound(after.head, site))


def _bound(function: Callable[..., Any], first: Any) -> Callable[..., Any]:
    def bound(*call: Any) -> Any:
        return function(first, *call)

    return bound
