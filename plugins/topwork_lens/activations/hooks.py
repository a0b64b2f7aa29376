"""Hooks that belong to a block of code: in force in its thread or task, without effect on copies of the model.

Entry point: `Hooks`. Hooks that edit activations run before those that read them, whatever order the blocks were
entered in: a capture sees what the model goes on with. So does transformers where it records outputs by hooks of its
own, which stay on a model from the first run that asked for them: task heads such as DPT's read what it recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

from torch import nn

from topwork_lens.scope import Scope


class Hook:
    """Hook of a module that does nothing outside of its scope.

    Args:
        scope: where it is in force.
        function: called with the module and what torch passes to a hook.
        reads: whether it only reads, and so runs after those that edit.
    """

    def __init__(self, scope: Scope, function: Callable[..., Any], reads: bool = False) -> None:
        self.scope, self.function, self.reads = scope, function, reads

    def __call__(self, module: nn.Module, *call: Any) -> Any:
        """Call the function, inside the scope."""
        return self.function(module, *call) if self.scope.active else None

    def __deepcopy__(self, memo: Any) -> Hook:
        """Return a hook that does nothing, for a copy of the model."""
        return Hook(Scope(), _nothing, self.reads)


def _nothing(*_: Any) -> None:
    return None


class Hooks:
    """Hooks of one block of code, removed when its stack is closed.

    Args:
        stack: closed at the end of the block.
        reads: whether these hooks only read.
    """

    def __init__(self, stack: ExitStack, reads: bool) -> None:
        self.stack, self.reads = stack, reads
        self.scope = stack.enter_context(Scope())

    def before(self, module: nn.Module, function: Callable[..., Any], reads: bool | None = None) -> None:
        """Call `function(module, args, kwargs)` before a module runs; it may return other args and kwargs."""
        hook = Hook(self.scope, function, self.reads if reads is None else reads)
        self.stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        _readers_last(module._forward_pre_hooks)

    def after(self, module: nn.Module, function: Callable[..., Any], reads: bool | None = None) -> None:
        """Call `function(module, args, kwargs, output)` after a module ran; it may return another output."""
        hook = Hook(self.scope, function, self.reads if reads is None else reads)
        self.stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        _readers_last(module._forward_hooks)


def _readers_last(hooks: Any) -> None:
    ordered = cast(dict[int, Any], hooks)
    for key in [key for key, hook in ordered.items() if _reads(hook)]:
        ordered[key] = ordered.pop(key)


def _reads(hook: Any) -> bool:
    if isinstance(hook, Hook):
        return hook.reads
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"
