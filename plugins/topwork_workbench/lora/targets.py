"""Targets of LoRA: the projections of attention layers and feed-forward blocks, as the lens finds them.

Entry point: `find_targets`. Modules are left out, with the reason, where a product beside the weight would not be used,
or could not be added to the weight afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from topwork import AttentionLayer, Block, Refused, UsageError, nearest
from topwork_lens.layers.feed_forward import find_feed_forwards
from topwork_lens.layers.projections import is_projection

if TYPE_CHECKING:
    from topwork import Plugins

_HINT = "choose other `targets`: attention, neurons, all, or names of linear layers"


@dataclass
class Targets:
    """Modules that get a product, and those that do not.

    Args:
        paths: module paths, in the order of the model; of a module that stands in several places the first.
        left_out: path -> why not.
    """

    paths: list[str]
    left_out: dict[str, str] = field(default_factory=dict)


def find_targets(
    model: nn.Module, wanted: str | Sequence[str], head: set[str], call: Callable[[], Any], plugins: Plugins
) -> Targets:
    """Find the modules that LoRA is put on.

    Args:
        model: the model.
        wanted: "attention", "neurons", "all", or patterns of module names.
        head: names of the tensors of the task head, which is trained in full.
        call: runs the model on a batch, in evaluation mode.
        plugins: the lens, and plugins that describe layers.

    Raises:
        UsageError: nothing is found, or a named module cannot have LoRA.
    """
    if isinstance(wanted, str):
        chosen = [path for path in _by_kind(model, wanted, call, plugins) if not _is_in(path, head)]
    else:
        chosen = _by_name(model, wanted)
    wanted_modules = {id(model.get_submodule(path)) for path in chosen}
    used = modules_that_run(model, call)
    targets = Targets([])
    for path, module in model.named_modules():
        if id(module) not in wanted_modules:
            continue
        obstacle = _obstacle(model, path, module, head, used)
        if obstacle is None:
            targets.paths.append(path)
        else:
            targets.left_out[path] = obstacle
    if not targets.paths or (not isinstance(wanted, str) and targets.left_out):
        raise _nothing(wanted, targets.left_out)
    return targets


def _nothing(wanted: str | Sequence[str], left_out: Mapping[str, str]) -> UsageError:
    if not left_out:
        cause = {"attention": "no attention layer", "neurons": "no feed-forward block"}.get(
            str(wanted), "neither an attention layer nor a feed-forward block"
        )
        return UsageError(f"{cause} was found in this model that LoRA can be put on", place="lora.targets", hint=_HINT)
    path, why = next(iter(left_out.items()))
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return UsageError(f"LoRA cannot be put on `{path}`{more}: {why}", place="lora.targets", hint=_HINT)


# ---------------------------------------------------------------- what is meant


def _by_name(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the paths of the modules with weights of their own that the patterns mean.

    Raises:
        UsageError: a pattern means none.
    """
    names = [path for path, module in model.named_modules() if path and _has_weight(module)]
    chosen: list[str] = []
    for pattern in patterns:
        hit = [name for name in names if fnmatchcase(name, pattern) or name.endswith(f".{pattern}")]
        if not hit:
            cause = f"no module is called `{pattern}`{nearest(pattern, names)}"
            raise UsageError(cause, place="lora.targets", hint=f"names are such as {', '.join(names[-3:])}")
        chosen += hit
    return chosen


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or hasattr(module, "weight")


def _by_kind(model: nn.Module, kind: str, call: Callable[[], Any], plugins: Plugins) -> list[str]:
    look = plugins.look(model)
    layers: list[AttentionLayer] = look.layers
    chosen: list[str] = []
    if kind in ("attention", "all"):
        chosen += [path for layer in layers for path in _of_attention(model, layer)]
    if kind in ("neurons", "all"):
        chosen += _of_blocks(model, layers, _blocks(look, call))
    return chosen


def _of_attention(model: nn.Module, layer: AttentionLayer) -> Iterable[str]:
    """Yield the projections of an attention layer; those of a layer whose slices are unknown are all below it."""
    around = model.get_submodule(layer.path)
    if isinstance(around, nn.MultiheadAttention):
        yield layer.path
        return
    owners = [piece.parameter.rpartition(".")[0] for piece in layer.slices]
    if not owners:
        owners = [path for path, module in around.named_modules() if _maps_features(module)]
    for owner in dict.fromkeys([*owners, layer.output]):
        path = _joined(layer.path, owner)
        if _exists(model, path) and _maps_features(model.get_submodule(path)):
            yield path


def _maps_features(module: nn.Module) -> bool:
    return is_projection(module) and not isinstance(module, nn.Embedding | nn.EmbeddingBag)


def _exists(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:  # a parameter of the layer itself
        return False
    return True


def _of_blocks(model: nn.Module, layers: Sequence[AttentionLayer], blocks: Sequence[Block]) -> list[str]:
    """Return the projections before and after feed-forward neurons."""
    by_shape = {network.output: network.inputs for network in find_feed_forwards(model, layers)}
    chosen = []
    for block in blocks:
        producers = [_joined(block.inside, producer.path) for producer in block.producers]
        # where a norm lies between, the finder by runs knows the consumer alone
        chosen += [*(producers or by_shape.get(block.path, ())), block.path]
    chosen += [path for output, inputs in by_shape.items() if output not in chosen for path in (*inputs, output)]
    # experts whose weights are one parameter are no modules: nothing can stand in for them
    return [path for path in chosen if _exists(model, path) and _maps_features(model.get_submodule(path))]


def _blocks(look: Any, call: Callable[[], Any]) -> list[Block]:
    try:
        blocks: list[Block] = look.find_blocks(call)
    except Refused:  # the shapes of projections say enough
        return []
    return blocks


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


# ---------------------------------------------------------------- what can have it


def modules_that_run(model: nn.Module, call: Callable[[], Any]) -> set[int]:
    """Return the ids of the modules whose forward is called when the model runs."""
    used: set[int] = set()

    def note(module: nn.Module, _: Any) -> None:
        used.add(id(module))

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return used


def _obstacle(model: nn.Module, path: str, module: nn.Module, head: set[str], used: set[int]) -> str | None:
    """Return why a module cannot have LoRA, or None."""
    if _is_in(path, head):
        return "it belongs to the task head, which is trained in full"
    if parametrize.is_parametrized(module):
        return "its weight is computed whenever it is read (soft pruning, weight norm)"
    if isinstance(module, nn.MultiheadAttention):
        if not module._qkv_same_embed_dim:
            return "its keys or values have another width than its queries"
    elif not isinstance(module, nn.Linear | Conv1D | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"peft has no LoRA for a {type(module).__module__}.{type(module).__name__}"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups > 1:
        return "its convolution is divided into groups"
    if id(module) not in used:
        return "its weight is read without calling it, so that a product beside it would not be used"
    if any(parameter.numel() == 0 for parameter in module._parameters.values() if parameter is not None):
        return "nothing is left of it"
    other = _shared_with(model, module)
    return f"its weight is also that of `{other}`" if other is not None else None


def _is_in(path: str, head: set[str]) -> bool:
    return any(name.startswith(f"{path}.") for name in head)


def _shared_with(model: nn.Module, module: nn.Module) -> str | None:
    """Return the path of another module that has the same weight, or None."""
    weights = {id(parameter) for parameter in module.parameters()}
    inside = {id(below) for below in module.modules()}
    for path, other in model.named_modules():
        if id(other) not in inside and any(id(parameter) in weights for parameter in other._parameters.values()):
            return path
    return None
