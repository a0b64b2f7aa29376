"""Finding the attention layers of any module: every module of the tree is put to the hook `attention_layer`.

Shared modules are named once, with all their callers. Layers are numbered per group (encoder, decoder, cross,
backbone), in the order of the module tree, because most architectures do not number them themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from topwork import AttentionLayer, UsageError, unknown

Key = int | str | tuple[str, int]


def find_layers(model: nn.Module, plugins: Any = None) -> list[AttentionLayer]:
    """All attention layers of `model`, in the order of its module tree.

    Args:
        plugins: who is asked besides the built-in rows: an object with `.hook.attention_layer`; None for the rows
            alone.
    """
    callers: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        callers.setdefault(id(module), []).append(path)
    layers: list[AttentionLayer] = []
    inside: set[int] = set()
    for path, module in model.named_modules():
        if id(module) in inside:
            continue
        layer = describe_one(path, module, model, plugins)
        if layer is not None:
            inside.update(id(below) for below in module.modules())
            layers.append(replace(layer, callers=tuple(callers[id(module)])))
    return layers


def describe_one(path: str, module: nn.Module, model: nn.Module, plugins: Any = None) -> AttentionLayer | None:
    """The attention layer that a module is, or None. What the model's manifest says of a pruned layer (original
    numbers) is laid over a description that only knows how the module stands now."""
    from topwork_lens.layers.description import describe, manifest_entry
    from topwork_lens.pruning.layout_search import with_variant

    if plugins is None:
        layer = describe(path, module, model)
    else:
        layer = plugins.hook.attention_layer(path=path, module=module, model=model)
    entry = manifest_entry(model, path)
    if layer is None or entry is None:
        return layer
    if not layer.removed:
        told = {"heads": entry["heads"], "kept": tuple(entry["kept"]), "groups": entry["groups"]}
        layer = replace(layer, **told, groups_left=tuple(entry["groups_left"]))
    return with_variant(model, layer, entry.get("variant"))


def group_of(layer: AttentionLayer) -> str:
    """The group in which a layer is numbered: "cross", or its side."""
    return "cross" if layer.kind == "cross" else layer.side


def numbered(layers: Sequence[AttentionLayer]) -> dict[tuple[str, int], AttentionLayer]:
    """Layers by (group, number)."""
    found: dict[tuple[str, int], AttentionLayer] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        group = group_of(layer)
        found[group, counts.setdefault(group, 0)] = layer
        counts[group] += 1
    return found


def layer_at(layers: Sequence[AttentionLayer], key: Key) -> AttentionLayer:
    """The layer that a caller means by a path, by (group, number), by "group.number", or by a number alone.

    Raises:
        UsageError: there is none, or a number alone could mean several.
    """
    if not layers:
        raise UsageError("no attention layer was found in this model", hint="teach it by the hook `attention_layer`")
    if not isinstance(key, str | tuple):
        key = whole_number(key, "the number of an attention layer")
    by_path = {caller: layer for layer in layers for caller in layer.callers}
    by_number = numbered(layers)
    if isinstance(key, str) and key not in by_path:
        group, _, digits = key.rpartition(".")
        if not digits.isdigit():
            raise unknown("attention layer", key, by_path)
        key = (group, int(digits)) if group else int(digits)
    if isinstance(key, str):
        return by_path[key]
    groups = sorted({group for group, _ in by_number})
    if isinstance(key, int):
        if len(groups) > 1:
            raise UsageError(
                f"layer {key} is ambiguous: this model has {', '.join(groups)} attention",
                hint=f'name it as ("{groups[0]}", {key}) or by its path',
            )
        key = (groups[0], key)
    if tuple(key) not in by_number:
        raise unknown("attention layer", str(tuple(key)), [str(known) for known in by_number])
    return by_number[key[0], key[1]]


def whole_number(value: Any, what: str) -> int:
    """A Python int, or what counts as one, such as numpy's.

    Raises:
        UsageError: it is something else; a truth value, too: who gives those means a mask.
    """
    try:
        if not isinstance(value, bool) and not str(getattr(value, "dtype", "")).endswith("bool"):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{what} must be a whole number, not {value!r}")


def _numbers(value: Any, place: str) -> list[int]:
    """Numbers of attention heads, each once, in order."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        value = [value]
    try:
        return sorted({whole_number(number, "the number of an attention head") for number in value})
    except UsageError as error:
        hint = "give numbers that count from 0, such as [1, 3]"
        raise UsageError(error.cause, place=place, hint=hint) from error


def heads_by_layer(
    layers: Sequence[AttentionLayer], heads: Mapping[Any, Sequence[int]]
) -> dict[str, tuple[AttentionLayer, list[int]]]:
    """What a caller asked for, by path, with original numbers checked and sorted.

    Raises:
        UsageError: no such layer, no such attention head, or a layer named twice.
    """
    if not isinstance(heads, Mapping):
        cause = f"which attention heads is said by layer, not by a {type(heads).__name__}"
        raise UsageError(cause, hint="give a dict, such as {0: [1, 3]}")
    found: dict[str, tuple[AttentionLayer, list[int]]] = {}
    for key, numbers in heads.items():
        layer = layer_at(layers, key)
        if layer.path in found:
            raise UsageError(f"attention layer {layer.path} is named twice", place=str(key))
        asked = _numbers(numbers, layer.path)
        wrong = [number for number in asked if not 0 <= number < layer.heads]
        if wrong:
            raise UsageError(
                f"there is no attention head {wrong[0]}: the layer has {layer.heads}, numbered from 0",
                place=layer.path,
            )
        found[layer.path] = (layer, asked)
    return found


def blocks(layers: Sequence[AttentionLayer]) -> list[str]:
    """Paths of the model's layers, each once: around every attention layer the outermost numbered module with no more
    than one self-attention in it (a stage of a pyramid has several)."""
    own = [caller for layer in layers if layer.kind == "self" for caller in layer.callers]
    found: dict[str, None] = {}
    for layer in layers:
        for caller in layer.callers:
            parts = caller.split(".")
            numbered = [".".join(parts[: index + 1]) for index, part in enumerate(parts) if part.isdigit()]
            fitting = [path for path in numbered if sum(f"{one}.".startswith(f"{path}.") for one in own) <= 1]
            found[fitting[0] if fitting else caller] = None
    return list(found)
