"""Trace of a run: the projections of a model, in the order in which they run, and the modules that they run in.

Entry point: `traced`. One run of the model is observed; nothing of it is kept but paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from topwork_lens.layers.context import first_input
from topwork_lens.model_state import quiet

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_convolution(module: Any) -> bool:
    """Return True for a convolution that is not transposed."""
    return isinstance(module, _CONVOLUTIONS)


def is_reader(module: Any) -> bool:
    """Return True for a projection that maps all input features to each output feature.

    Linear, Conv1D of transformers and ungrouped convolutions of any size.
    """
    weight = getattr(module, "_parameters", {}).get("weight")
    if not isinstance(weight, torch.Tensor):
        return False
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1
    return weight.dim() == 2 and (isinstance(module, nn.Linear) or hasattr(module, "nf"))


def reads_features(module: Any) -> int:
    """Return the number of input features of such a projection, 0 for any other module."""
    return module.weight.shape[0 if hasattr(module, "nf") else 1] if is_reader(module) else 0


def makes_features(module: Any) -> int:
    """Return the number of output features of such a projection."""
    weight = module._parameters["weight"]
    return weight.shape[1 if hasattr(module, "nf") else 0]


def channel_dim(module: nn.Module) -> int:
    """Return the dimension of a projection's input along which its features lie."""
    return 1 if isinstance(module, _CONVOLUTIONS) else -1


@dataclass
class CallRecord:
    """The first call of a module.

    Args:
        path: of the module.
        callers: numbers and paths of the calls that it ran inside of, the outermost first.
    """

    path: str
    callers: tuple[tuple[int, str], ...]


@dataclass
class Trace:
    """First calls of modules without children, in the order in which they ran."""

    calls: list[CallRecord] = field(default_factory=list)

    def common(self, first: int, second: int) -> tuple[str, ...]:
        """Return the paths of the calls that two calls ran inside of, the outermost first."""
        pairs = zip(self.calls[first].callers, self.calls[second].callers, strict=False)
        shared = []
        for a, b in pairs:
            if a != b:
                break
            shared.append(a[1])
        return tuple(shared)


def traced(model: nn.Module, call: Callable[[], Any]) -> Trace:
    """Run the model once and return what ran."""
    trace, active, numbers = Trace(), list[tuple[int, str]](), iter(range(2**60))
    seen: set[str] = set()

    def enter(path: str, leaf: bool, numbers: Iterator[int]) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if leaf and path not in seen:
                seen.add(path)
                trace.calls.append(CallRecord(path, tuple(active)))
            active.append((next(numbers), path))

        return hook

    def leave(*_: Any) -> None:
        active.pop()

    with ExitStack() as stack:
        for path, module in model.named_modules():
            leaf = not any(True for _ in module.children()) or bool(module._parameters)
            stack.callback(module.register_forward_pre_hook(enter(path, leaf, numbers), prepend=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        with quiet(model):
            call()
    return trace


def input_watch(module: nn.Module, masked: Sequence[int], inputs: list[torch.Tensor]) -> Any:
    """Record the input of a projection in every call, and run it with some of its features at 0.

    Returns:
        The handle of the hook.
    """
    from topwork_lens.layers.context import with_first_input

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        value = first_input(args, kwargs)
        inputs.append(value.detach().clone())
        index = torch.tensor(masked, dtype=torch.long, device=value.device)
        return with_first_input(args, kwargs, value.index_fill(channel_dim(module), index, 0))

    return module.register_forward_pre_hook(hook, with_kwargs=True)
