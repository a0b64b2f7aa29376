"""Discovery of whole layers: entries of a module list that run one after another, each on what the one before gave.

Entry points: `find_whole_layers`, `whole_layer_at`. What a layer gives must have the shape of what it is given: stages
of pyramids are none. Layers keep the index that they had before any was left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from topwork import Refused, UsageError, unknown
from topwork_lens.blocks.whole.leaving_out import leave_out
from topwork_lens.blocks.whole.whole_layer import WholeLayer, first_tensor
from topwork_lens.layers.discovery import whole_number
from topwork_lens.layers.state import noted
from topwork_lens.model_state import quiet


@dataclass
class _Call:
    given: torch.Tensor | None
    made: torch.Tensor | None


def find_whole_layers(model: nn.Module, call: Callable[[], Any]) -> list[WholeLayer]:
    """Find the whole layers of a model by one run.

    Returns:
        Layers in the order of the module tree; those that cannot be left out have a reason.
    """
    lists = {
        path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    calls: dict[int, list[_Call]] = {}

    def record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        given = first_tensor(args)
        calls.setdefault(id(module), []).append(
            _Call(first_tensor(kwargs) if given is None else given, first_tensor(output))
        )

    with ExitStack() as stack:
        for module in {id(entry): entry for entries in lists.values() for entry in entries}.values():
            stack.callback(module.register_forward_hook(record, with_kwargs=True).remove)
        with quiet(model):
            call()
    layers = []
    for path, entries in lists.items():
        ran = [calls.get(id(entry), []) for entry in entries]
        note = noted(model, "left_out", path)
        # of a list that layers were left out of, as few as one may be left
        alike = len({type(entry) for entry in entries}) < max(2, len(entries)) and _is_chain(ran)
        if alike or (note is not None and all(len(calls) == 1 for calls in ran)):
            reasons, doubts = _reasons(model, path, entries, ran), _doubts(entries)
            original = list((note or {}).get("kept", range(len(entries))))
            for position, index in enumerate(original):
                layer = WholeLayer(f"{path}.{index}", path, index, position, reasons[position])
                layers.append(_tried(model, layer, doubts[position], call))
    return layers


def _tried(model: nn.Module, layer: WholeLayer, doubt: str, call: Callable[[], Any]) -> WholeLayer:
    """Return a layer that is left out for a trial where there is a doubt, which is the reason if that fails."""
    if layer.why or not doubt:
        return layer
    try:
        _, restore = leave_out(model, [layer], call)
    except Refused:
        return replace(layer, why=doubt)
    restore()
    return layer


def _is_chain(ran: Sequence[Sequence[_Call]]) -> bool:
    """Return whether every entry ran once, most of them on what the one before gave."""
    if len(ran) < 2 or any(len(calls) != 1 for calls in ran):
        return False
    links = itertools.pairwise(ran)
    return sum(_same(before[0].made, after[0].given) for before, after in links) * 2 > len(ran) - 1


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and (a is b or (a.shape == b.shape and bool(torch.equal(a, b))))


def _reasons(model: nn.Module, path: str, entries: nn.ModuleList, ran: Sequence[Sequence[_Call]]) -> list[str]:
    """Return for each entry why it cannot be left out, or ""."""
    kinds = _kinds(model, path, len(entries))
    reasons = []
    for position, (call,) in enumerate(ran):
        if call.given is None or call.made is None or call.given.shape != call.made.shape:
            reasons.append("it gives another shape than it is given")
        elif any(len(kind) < len(entries) or len(set(kind[position : len(entries)])) > 1 for kind in kinds.values()):
            name = next(iter(kinds))
            reasons.append(_ALTERNATE.format(name=name))
        else:
            reasons.append("")
    return reasons


def _doubts(entries: nn.ModuleList) -> list[str]:
    """Return for each entry why it may be needed by the others, as the first layer of T5 is, or ""."""
    names = [{name for name, _ in entry.named_parameters()} for entry in entries]
    doubts = []
    for position, parameters in enumerate(names):
        alone = parameters.difference(*(other for index, other in enumerate(names) if index != position))
        doubts.append(f"it alone has `{min(alone)}`: what other layers use comes from it" if alone else "")
    return doubts


#: without a layer those behind it stand one index earlier, so all of them have to be of its kind
_ALTERNATE = "kinds of layers alternate, and the model looks them up by index ({name}): another would stand there"


def _kinds(model: nn.Module, path: str, count: int) -> dict[str, list[str]]:
    """Return the lists of kinds of layers that the model's configuration has for a list; none where all are alike.

    Args:
        model: the model.
        path: of the list.
        count: of its entries.
    """
    parts = path.split(".")
    for end in range(len(parts), -1, -1):
        config: Any = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        if config is not None:
            # Not all that `vars` has may be read as an attribute, and some lists are properties.
            lists: dict[str, Any] = {"layer_types": getattr(config, "layer_types", None), **vars(config)}
            lists["layers_block_type"] = getattr(config, "layers_block_type", None)
            return {name: list(kinds) for name, kinds in lists.items() if _is_kinds(name, kinds, count)}
    return {}


def _is_kinds(name: str, value: Any, count: int) -> bool:
    if name.startswith("mlp"):
        return False  # neither caches nor masks ask for it: every run shows whether it is looked up
    if not isinstance(value, list | tuple) or not all(isinstance(kind, str) for kind in value):
        return False
    return len(set(value)) > 1 and (name == "layer_types" or len(value) == count)


def whole_layer_at(layers: Sequence[WholeLayer], key: int | str | tuple[str, int]) -> WholeLayer:
    """Return the layer that an original path, an index, or a pair of a list's path and an index means.

    Raises:
        UsageError: there is none, or an index alone could mean several.
    """
    lists = list(dict.fromkeys(layer.list_path for layer in layers))
    if not lists:
        raise UsageError("this model has no whole layers that could be left out")
    if isinstance(key, str):
        by_path = {layer.path: layer for layer in layers}
        if key not in by_path:
            raise unknown("whole layer", key, by_path)
        return by_path[key]
    if not isinstance(key, tuple):
        if len(lists) > 1:
            cause = f"layer {key} is ambiguous: there are layers in {', '.join(lists)}"
            raise UsageError(cause, hint=f'name it as ("{lists[0]}", {key}), or by its path')
        key = (lists[0], whole_number(key, "the number of a layer"))
    chosen = next((layer for layer in layers if (layer.list_path, layer.index) == key), None)
    if chosen is None:
        raise unknown("whole layer", str(key), [str((layer.list_path, layer.index)) for layer in layers])
    return chosen
