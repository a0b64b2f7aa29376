"""Stacks of a model: lists of layers that run one after another, with or without attention.

Entry point: `stacks_of`.
"""

from __future__ import annotations

from torch import nn


def stacks_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the layers of each stack of a model, by its path.

    A stack is an outermost list of modules that have parts of their own, such as "encoder.layer" or "stages".
    """
    stacks: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if any(f"{path}.".startswith(f"{stack}.") for stack in stacks):
            continue
        layers = list(module.children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if layers and all(layer._modules for layer in layers):
            stacks[path] = [part for layer in layers for part in _that_run(layer)]
    return stacks


def _that_run(layer: nn.Module) -> list[nn.Module]:
    """Return the layer itself; of a list, which never runs as such, what it holds."""
    return list(layer.children()) if isinstance(layer, nn.ModuleList) else [layer]
