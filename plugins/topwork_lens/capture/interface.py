"""Observation of transformers' attention interface, the method by which modelling code gets its attention function.

Entry point: `observing_interface`. `AttentionInterface.get_interface` is replaced once for all blocks of the process
and put back when the last one ends; what an observer sees is limited to its own thread or task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork_lens.scope import Scope, SharedSwitch


@dataclass(frozen=True)
class InterfaceCall:
    """One call of an attention function by modelling code.

    Args:
        module: the attention module.
        states: queries, keys and values, each [items, heads or groups, positions, width].
        mask: the attention mask, in the form that the implementation wants.
        options: the other arguments.
        eager: the module's own eager function.
        is_eager: whether that is the implementation that runs.
        attend: what computes it, called as modelling code calls an attention function.
        weights: [items, heads, queries, keys] when they are not those of the eager function, but were replaced.
    """

    module: nn.Module
    states: tuple[Any, Any, Any]
    mask: Any
    options: dict[str, Any]
    eager: Callable[..., Any]
    is_eager: bool
    attend: Callable[..., Any]
    weights: torch.Tensor | None = None

    def run(self) -> Any:
        """Return what the attention function returns."""
        return self.attend(self.module, *self.states, self.mask, **self.options)


#: called with a call and with what runs it, or another call in its stead; returns the output of the attention function
Observer = Callable[[InterfaceCall, Callable[[InterfaceCall], Any]], Any]


@dataclass(frozen=True)
class _Observing:
    scope: Scope
    observer: Observer
    edits: bool


_OBSERVERS: ContextVar[tuple[_Observing, ...]] = ContextVar("topwork_lens_observers", default=())


@contextmanager
def observing_interface(observer: Observer, *, edits: bool = False) -> Iterator[None]:
    """Pass every call of an attention function in this thread or task to `observer`, for the time of the block.

    Args:
        observer: called with each call.
        edits: whether it changes calls. Those that only read see what all of these made of a call; of several that
            change it, the last one entered has the last word.
    """
    with _DISPATCHING.on(), Scope() as scope:
        _OBSERVERS.set((*_OBSERVERS.get(), _Observing(scope, observer, edits)))
        try:
            yield
        finally:
            _OBSERVERS.set(tuple(each for each in _OBSERVERS.get() if each.scope is not scope))


def _dispatch() -> Callable[[], None]:
    from transformers.modeling_utils import AttentionInterface

    original = AttentionInterface.get_interface

    def get_interface(interface: Any, implementation: Any, default: Callable[..., Any]) -> Callable[..., Any]:
        chosen = original(interface, implementation, default)
        observing = [each for each in _OBSERVERS.get() if each.scope.is_open]
        if not observing:
            return chosen
        # From the innermost to the outermost: what reads, then what edits, the last one entered first.
        readers = [each.observer for each in observing if not each.edits]
        editors = [each.observer for each in reversed(observing) if each.edits]

        def attend(
            module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any
        ) -> Any:
            is_eager = implementation in (None, "eager")
            call = InterfaceCall(module, (query, key, value), attention_mask, options, default, is_eager, chosen)
            run: Callable[[InterfaceCall], Any] = InterfaceCall.run
            for observer in (*readers, *editors):
                run = _around(observer, run)
            return run(call)

        return attend

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
    return lambda: setattr(AttentionInterface, "get_interface", original)


def _around(observer: Observer, run: Callable[[InterfaceCall], Any]) -> Callable[[InterfaceCall], Any]:
    return lambda call: observer(call, run)


_DISPATCHING = SharedSwitch(_dispatch)
