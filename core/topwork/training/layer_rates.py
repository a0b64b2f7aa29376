"""Learning rates that fall from layer to layer, from the task head down: `divide_rates`.

Layers are the members of the outermost lists of modules: blocks of a transformer, stages of a hierarchical or
convolutional network, in the order in which the model has them; an encoder and a decoder are numbered each for itself.
Embeddings, and what lies before the first layer, count as one layer below it; what follows the last one (norms,
pooling, the task head) has the full rate. Howard and Ruder (2018), arXiv:1801.06146, section 3.2, call it
discriminative fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from topwork.errors import UsageError
from topwork.training.freezing import backbone_name

if TYPE_CHECKING:
    from torch.optim import Optimizer

#: a part of a module path that makes a stack of layers one of its own
_DECODER = "decoder"


def depths(model: nn.Module) -> dict[str, int]:
    """Return for each parameter how many layers lie between it and the task head; 0 for the full rate.

    Args:
        model: a task's model.

    Raises:
        UsageError: no layers are to be seen.
    """
    prefix = _prefix(model)
    sides: dict[bool, list[list[str]]] = {}
    for paths in _layers(model, prefix):
        sides.setdefault(_DECODER in paths[0].split("."), []).append(paths)
    if not sides:
        raise UsageError(f"{type(model).__name__} has no list of layers", place="layer_decay", hint="leave it out")
    result: dict[str, int] = {}
    passed: dict[bool, int] = dict.fromkeys(sides, 0)
    for name, _ in model.named_parameters():
        side = _DECODER in name.split(".") if len(sides) > 1 else next(iter(sides))
        index, count = _index(sides[side], name), len(sides[side])
        if index is not None:
            passed[side] = max(passed[side], index + 1)
            result[name] = count - index
        elif not name.startswith(prefix):
            result[name] = 0
        elif "embed" in name:
            result[name] = count + 1
        else:  # beside the layers: below the one that follows
            result[name] = 0 if passed[side] == count else count - passed[side] + 1
    return result


def _index(layers: Sequence[Sequence[str]], name: str) -> int | None:
    """Return the index of the layer that a parameter lies in; None where it lies in none."""
    inside = (index for index, paths in enumerate(layers) if any(name.startswith(f"{path}.") for path in paths))
    return next(inside, None)


def _prefix(model: nn.Module) -> str:
    """Return how names in the backbone begin; empty where the model does not say which part that is."""
    try:
        return f"{backbone_name(model)}."
    except UsageError:
        return ""


def _layers(model: nn.Module, prefix: str) -> list[list[str]]:
    """Return the layers of the backbone, each as the paths of its modules.

    They are the members of the outermost lists; lists of one length beside each other (blocks and the norms behind
    them) are the same layers.
    """
    lists: dict[tuple[str, int], list[list[str]]] = {}
    inside: list[str] = []
    for path, module in model.named_modules():
        if not path.startswith(prefix) or any(path.startswith(f"{outer}.") for outer in inside):
            continue
        if _are_layers(module):
            inside.append(path)
            names = [name for name, _ in module.named_children()]
            beside = lists.setdefault((path.rpartition(".")[0], len(names)), [[] for _ in names])
            for paths, name in zip(beside, names, strict=True):
                paths.append(f"{path}.{name}")
    return [paths for layers in lists.values() for paths in layers]


def _are_layers(module: nn.Module) -> bool:
    """Return whether a module is a list whose members are of one class and have parameters."""
    members = list(module.children())
    if not members or not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    weighted = all(any(True for _ in member.parameters()) for member in members)
    return (
        weighted
        and len({type(member) for member in members}) == 1
        and (len(members) > 1 or isinstance(module, nn.ModuleList))
    )


def divide_rates(optimizer: Optimizer, model: nn.Module, decay: float) -> None:
    """Divide the parameter groups of an optimizer by layer, and multiply their learning rates.

    Args:
        optimizer: just made, without a state; a group keeps everything but its parameters and its rate.
        model: whose parameters the optimizer has.
        decay: factor from each layer to the one below it.
    """
    by_name = depths(model)
    depth = {id(parameter): by_name[name] for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_depth: dict[int, list[Any]] = {}
        for parameter in group["params"]:
            by_depth.setdefault(depth[id(parameter)], []).append(parameter)
        for layers, parameters in sorted(by_depth.items()):
            groups.append({**group, "params": parameters, "lr": group["lr"] * decay**layers})
    optimizer.param_groups[:] = groups
