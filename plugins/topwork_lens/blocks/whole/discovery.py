"""Discovery of whole layers: entries of a module list that run one after another, each on what the one before gave.

Entry points: `find_whole_layers`, `whole_layer_at`. What a layer gives must have the shape of what it is given: stages
of pyramids are none. Layers keep the index that they had before any was left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork import UsageError, unknown
from topwork_lens.layers.discovery import whole_number
from topwork_lens.layers.state import noted
from topwork_lens.model_state import quiet


@dataclass(frozen=True)
class WholeLayer:
    """A layer that a model may do without.

    Args:
        path: its original path: that of the list, and the index before any layer was left out.
        list_path: module path of the list that it is an entry of.
        index: original index.
        position: index now.
        why: why it cannot be left out, or "".
    """

    path: str
    list_path: str
    index: int
    position: int
    why: str = ""

    @property
    def prunable(self) -> bool:
        """Whether it can be left out."""
        return not self.why


@dataclass
class _Call:
    given: torch.Tensor | None
    made: torch.Tensor | None


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return the first floating tensor of arguments or of an output."""
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    values = value.values() if hasattr(value, "values") else value if isinstance(value, list | tuple) else ()
    return next((tensor for part in values if (tensor := first_tensor(part)) is not None), None)


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
            reasons = _reasons(model, path, entries, ran)
            original = list((note or {}).get("kept", range(len(entries))))
            for position, index in enumerate(original):
                layers.append(WholeLayer(f"{path}.{index}", path, index, position, reasons[position]))
    return layers


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
    names = [{name: tuple(value.shape) for name, value in entry.named_parameters()} for entry in entries]
    kinds = _kinds(model, path)
    reasons = []
    for position, (call,) in enumerate(ran):
        others = [set(name) for index, name in enumerate(names) if index != position]
        alone = set(names[position]) - set().union(*others)
        if call.given is None or call.made is None or call.given.shape != call.made.shape:
            reasons.append("it gives another shape than it is given")
        elif alone:
            reasons.append(f"it alone has `{min(alone)}`: what other layers use may come from it")
        elif kinds and (len(kinds) < len(entries) or len(set(kinds[position : len(entries)])) > 1):
            reasons.append(_ALTERNATE)
        else:
            reasons.append("")
    return reasons


#: without a layer those behind it stand one index earlier, so all of them have to be of its kind
_ALTERNATE = "kinds of layers alternate, and the model looks them up by index (layer_types): another would stand there"


def _kinds(model: nn.Module, path: str) -> list[Any]:
    """Return the kinds of layers that the model looks up by index in its configuration; none where all are alike."""
    parts = path.split(".")
    for end in range(len(parts), -1, -1):
        config: Any = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        if config is not None:
            kinds = getattr(config, "layer_types", None)
            return list(kinds) if isinstance(kinds, list | tuple) and len(set(kinds)) > 1 else []
    return []


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
