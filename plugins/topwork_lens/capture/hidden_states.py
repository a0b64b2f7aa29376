"""Hidden states of every layer of every stack of a model, with or without attention: mixers, convolutions, stages.

Entry point: `recording_states`. A stack is an outermost list of modules that have parts of their own, such as
"encoder.layer", "layers" or "stages"; its states are the input of its first layer, then the output of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from topwork_lens.scope import Scope

#: (stack, state, whether it is the first of a forward pass)
Keep = Callable[[str, torch.Tensor, bool], None]


def stacks_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the layers of each stack of a model, by its path."""
    stacks: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if any(f"{path}.".startswith(f"{stack}.") for stack in stacks):
            continue
        layers = list(module.children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if layers and all(layer._modules for layer in layers):
            stacks[path] = layers
    return stacks


@contextmanager
def recording_states(model: nn.Module, keep: Keep) -> Iterator[None]:
    """Pass each state of each stack that runs to `keep`, for the time of the block."""
    with ExitStack() as hooks:
        scope = hooks.enter_context(Scope())
        for path, layers in stacks_of(model).items():
            recorder = _Recorder(path, layers, keep, scope)
            hooks.callback(model.register_forward_pre_hook(recorder.begin).remove)
            for layer in layers:
                hooks.callback(layer.register_forward_pre_hook(recorder.enter, with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(recorder.leave).remove)
        yield


class _Recorder:
    """Recorder of one stack; its layers may run several times in a forward pass, as shared ones do."""

    def __init__(self, path: str, layers: Sequence[nn.Module], keep: Keep, scope: Scope) -> None:
        self.path, self.layers, self.keep, self.scope = path, list(layers), keep, scope
        self.fresh = True

    def begin(self, *_: Any) -> None:
        if self.scope.active:
            self.fresh = True

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.scope.active and self.fresh:
            state = kwargs.get("hidden_states", args[0] if args else next(iter(kwargs.values()), None))
            if (tensor := _state(state)) is not None:
                self.keep(self.path, tensor, True)
                self.fresh = False

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.scope.active and not self.fresh and (tensor := _state(output)) is not None:
            self.keep(self.path, tensor, False)


def _state(value: Any) -> torch.Tensor | None:
    """Return the hidden state that a layer takes or returns: a tensor, or the first of several."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if isinstance(value, dict) and value:
        value = next(iter(value.values()))
    return value.detach() if isinstance(value, torch.Tensor) else None
