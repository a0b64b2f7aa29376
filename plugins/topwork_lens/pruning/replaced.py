"""Attention modules that a model replaces when it runs, such as BigBird's for short inputs.

A replacement is built from the configuration, for the original number of attention heads, around the projections of the
module that it replaces. Sliced projections do not fit it; softly pruned ones do. Entry points: `restoring_modules`
(replacements in a run) and `replaced_since_built` (replacements of earlier runs, which a loaded model has not).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from topwork_lens.layers.context import Unit

WHY = "the model replaces this module when it runs, by one with the number of attention heads of its configuration"


@contextmanager
def restoring_modules(model: nn.Module, layers: Sequence[Unit]) -> Iterator[set[str]]:
    """Put back modules that runs in the block replace, and words by which modules remember it.

    Modules that are added, such as parametrizations, stay; so do numbers, such as sizes that pruning corrects.

    Yields:
        Filled at the end: the paths of `layers` below which a module was replaced.
    """
    replaced: set[str] = set()
    # Soft pruning itself replaces parametrizations.
    modules = [module for path, module in model.named_modules() if "parametrizations" not in path.split(".")]
    children = [(module, _children(module)) for module in modules]
    settings = [(module, _settings(module)) for module in modules]
    try:
        yield replaced
    finally:
        changed = {
            id(module)
            for module, before in children
            if any(module._modules.get(name) is not child for name, child in before.items())
        }
        if changed:
            replaced |= {layer.path for layer in layers if _holds(model.get_submodule(layer.path), changed)}
            for module, before in children:
                module._modules.update(before)
            for module, values in settings:
                vars(module).update(values)


def _children(module: nn.Module) -> dict[str, nn.Module | None]:
    return {name: child for name, child in module._modules.items() if name != "parametrizations"}


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, str)}


def _holds(module: nn.Module, ids: set[int]) -> bool:
    return any(id(below) in ids for below in module.modules())


def replaced_since_built(model: nn.Module, layers: Sequence[Unit]) -> set[str]:
    """Return the paths of layers whose modules are of other classes than in a model that was just built or loaded.

    Only transformers models are compared, which their configuration builds; nothing is allocated.
    """
    from transformers import PreTrainedModel

    outermost: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not any(_is_below(path, outer) for outer in outermost):
            outermost[path] = module
    replaced: set[str] = set()
    for path, module in outermost.items():
        try:
            with torch.device("meta"):
                built = type(module)(copy.deepcopy(module.config))
        except Exception:  # it is not built by its configuration alone
            continue
        classes = {name: type(below) for name, below in built.named_modules()}
        for layer in layers:
            if _is_below(layer.path, path):
                start = layer.path[len(path) :].lstrip(".")
                for name, below in model.get_submodule(layer.path).named_modules():
                    expected = classes.get(".".join(part for part in (start, name) if part))
                    if expected is not None and not _is_alike(type(below), expected):
                        replaced.add(layer.path)
    return replaced


def _is_below(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _is_alike(present: type, expected: type) -> bool:
    """Return whether classes are the same, but for one that a parametrization or a wrapper derives."""
    return issubclass(present, expected) or present.__module__ != expected.__module__
