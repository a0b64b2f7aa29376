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
    """

    module: nn.Module
    states: tuple[Any, Any, Any]
    mask: Any
    options: dict[str, Any]
    eager: Callable[..., Any]
    is_eager: bool


#: called with a call and with what runs it; returns the output of the attention function
Observer = Callable[[InterfaceCall, Callable[[], Any]], Any]

_OBSERVERS: ContextVar[tuple[tuple[Scope, Observer], ...]] = ContextVar("topwork_lens_observers", default=())


@contextmanager
def observing_interface(observer: Observer) -> Iterator[None]:
    """Pass every call of an attention function in this thread or task to `observer`, for the time of the block."""
    with _DISPATCHING.on(), Scope() as scope:
        _OBSERVERS.set((*_OBSERVERS.get(), (scope, observer)))
        try:
            yield
        finally:
            _OBSERVERS.set(tuple(pair for pair in _OBSERVERS.get() if pair[0] is not scope))


def _dispatch() -> Callable[[], None]:
    from transformers.modeling_utils import AttentionInterface

    original = AttentionInterface.get_interface

    def get_interface(interface: Any, implementation: Any, default: Callable[..., Any]) -> Callable[..., Any]:
        chosen = original(interface, implementation, default)
        observers = [observer for scope, observer in _OBSERVERS.get() if scope.is_open]
        if not observers:
            return chosen

        def attend(
            module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any
        ) -> Any:
            is_eager = implementation in (None, "eager")
            call = InterfaceCall(module, (query, key, value), attention_mask, options, default, is_eager)

            def run() -> Any:
                return chosen(module, query, key, value, attention_mask, **options)

            for observer in observers:
                run = _around(observer, call, run)
            return run()

        return attend

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
    return lambda: setattr(AttentionInterface, "get_interface", original)


def _around(observer: Observer, call: InterfaceCall, run: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: observer(call, run)


_DISPATCHING = SharedSwitch(_dispatch)
