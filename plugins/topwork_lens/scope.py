"""Scopes: effects of a block that reach no other thread or task, and process-wide switches that several blocks share.

Entry points: `Scope`, `eager_when_compiled`. Hooks stand on modules, which all threads share; a hook that belongs to a
block asks its scope whether the block is active where the model runs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_OPEN: ContextVar[tuple[Scope, ...]] = ContextVar("topwork_lens_scopes", default=())


class Scope:
    """Block of code whose effects are limited to the context (thread or asyncio task) that entered it.

    Blocks may be nested and may overlap. A copy of a scope, made when a model is copied inside the block, is closed.
    To run a model in another thread inside the block: `Thread(target=contextvars.copy_context().run, args=(run,))`.
    """

    def __init__(self) -> None:
        self.is_open = False

    def __enter__(self) -> Scope:
        self.is_open = True
        _OPEN.set((*_OPEN.get(), self))
        return self

    def __exit__(self, *_: Any) -> None:
        self.is_open = False
        _OPEN.set(tuple(scope for scope in _OPEN.get() if scope.is_open))

    @property
    def active(self) -> bool:
        """Whether the running code belongs to the block."""
        return self.is_open and (self in _OPEN.get() or _in_autograd_thread())

    def __deepcopy__(self, memo: Any) -> Scope:
        return Scope()

    def __reduce__(self) -> Any:
        return Scope, ()


def _in_autograd_thread() -> bool:
    # The threads in which autograd runs on a GPU (and in which checkpointed layers run again) were not started by
    # Python: they have no context of their own.
    return isinstance(threading.current_thread(), threading._DummyThread)


class SharedSwitch:
    """A process-wide switch: on from the first block that needs it until the last one ends, in whatever order."""

    def __init__(self, switch_on: Callable[[], Callable[[], None]]) -> None:
        self._switch_on = switch_on
        self._lock = threading.Lock()
        self._users = 0
        self._switch_off: Callable[[], None] | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Keep the switch on for the time of the block."""
        with self._lock:
            if not self._users:
                self._switch_off = self._switch_on()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._switch_off is not None:
                    self._switch_off()
                    self._switch_off = None


def _force_eager() -> Callable[[], None]:
    stance = torch.compiler.set_stance("force_eager")
    stance.__enter__()
    return lambda: stance.__exit__(None, None, None)


_EAGER = SharedSwitch(_force_eager)


@contextmanager
def eager_when_compiled() -> Iterator[None]:
    """Run compiled models as they were written: compiled code neither sees hooks nor calls the functions watched."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _EAGER.on():
        yield


def forget_compiled() -> None:
    """Make compiled models compile again: compiled code does not see hooks that are added or removed later."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
