"""Discovery of the attention layers of a model, and the names by which a caller chooses layers and attention heads.

Entry points: `find_layers`, `layer_at`, `heads_by_layer`. Every module of the tree is passed to the hook
`attention_layer`; the built-in patterns answer it last (`description`). Shared modules are listed once, with all their
callers. Layers are numbered per group (encoder, decoder, cross, backbone), in the order of the module tree: most
architectures do not number them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from topwork import AttentionLayer, UsageError, unknown
from topwork_lens.layers.description import describe, manifest_entry
from topwork_lens.layers.mixing import with_mixing
from topwork_lens.layers.variant import with_variant

Key = int | str | tuple[str, int]
#: in which layers are numbered
GROUPS = ("encoder", "decoder", "cross", "backbone")


def find_layers(model: nn.Module, plugins: Any = None) -> list[AttentionLayer]:
    """Find all attention layers of `model`, in the order of its module tree.

    Args:
        model: any module.
        plugins: describes attention layers besides the built-in patterns: an object with `.hook.attention_layer`; None
            for the patterns alone.
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
    """Describe the attention layer that a module is, with the original indices that the manifest has of a pruned layer.

    Returns:
        None when the module is no attention layer.
    """
    if plugins is None:
        layer = describe(path, module, model)
    else:
        layer = plugins.hook.attention_layer(path=path, module=module, model=model)
    if layer is None:
        return None
    manifest = manifest_entry(model, path)
    if manifest is None:
        return with_mixing(layer, module)
    if not layer.removed:
        # A plugin's description knows the module only as it stands now.
        original = {"heads": manifest["heads"], "kept": tuple(manifest["kept"]), "groups": manifest["groups"]}
        layer = replace(layer, **original, groups_left=tuple(manifest["groups_left"]))
    return with_mixing(with_variant(model, layer, manifest.get("variant")), module)


def group_of(layer: AttentionLayer) -> str:
    """Return the group in which a layer is numbered: "cross", or its side."""
    return "cross" if layer.kind == "cross" else layer.side


def numbered(layers: Sequence[AttentionLayer]) -> dict[tuple[str, int], AttentionLayer]:
    """Return layers by (group, index)."""
    by_key: dict[tuple[str, int], AttentionLayer] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        group = group_of(layer)
        by_key[group, counts.setdefault(group, 0)] = layer
        counts[group] += 1
    return by_key


def layer_at(layers: Sequence[AttentionLayer], key: Key) -> AttentionLayer:
    """Return the layer that a path, a (group, index), a "group.index" or an index alone means.

    Negative indices count from the end of the group: -1 is its last layer.

    Raises:
        UsageError: there is none, or an index alone could mean several.
    """
    if not layers:
        raise UsageError("no attention layer was found in this model", hint="teach it by the hook `attention_layer`")
    if not isinstance(key, str | tuple):
        key = whole_number(key, "the number of an attention layer")
    by_path = {caller: layer for layer in layers for caller in layer.callers}
    by_key = numbered(layers)
    if isinstance(key, str) and key not in by_path:
        group, _, digits = key.rpartition(".")
        if not digits.removeprefix("-").isdigit():
            raise unknown("attention layer", key, by_path)
        key = (group, int(digits)) if group else int(digits)
    if isinstance(key, str):
        return by_path[key]
    groups = sorted({group for group, _ in by_key})
    if isinstance(key, int):
        if len(groups) > 1:
            raise UsageError(
                f"layer {key} is ambiguous: this model has {', '.join(groups)} attention",
                hint=f'name it as ("{groups[0]}", {key}) or by its path',
            )
        key = (groups[0], key)
    if len(key) == 2 and isinstance(key[1], int) and key[1] < 0:
        key = (key[0], key[1] + sum(group == key[0] for group, _ in by_key))
    if tuple(key) not in by_key:
        raise unknown("attention layer", str(tuple(key)), [str(known) for known in by_key])
    return by_key[key[0], key[1]]


def whole_number(value: Any, what: str) -> int:
    """Convert an integer of Python, or an object that counts as such (numpy's), to a Python int.

    Raises:
        UsageError: it is something else; a truth value, too: who gives those means a mask.
    """
    try:
        if not isinstance(value, bool) and not str(getattr(value, "dtype", "")).endswith("bool"):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{what} must be a whole number, not {value!r}")


def is_group_and_index(key: Any) -> bool:
    """Return whether a key is (group, index), which means one layer, and no sequence of keys."""
    return isinstance(key, tuple) and len(key) == 2 and key[0] in GROUPS and not isinstance(key[1], str | tuple | list)


def is_list_of_indices(heads: Any) -> bool:
    """Return whether attention heads are given as plain indices, and not as pairs or as a head mask."""
    if len(getattr(heads, "shape", ())) > 1:
        return False
    return not isinstance(heads, list | tuple) or not any(isinstance(head, list | tuple) for head in heads)


def _head_indices(value: Any, path: str) -> list[int]:
    """Return indices of attention heads, each once, in order."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        value = [value]
    try:
        return sorted({whole_number(index, "the number of an attention head") for index in value})
    except UsageError as error:
        hint = "give numbers that count from 0, such as [1, 3]"
        raise UsageError(error.cause, place=path, hint=hint) from error


def heads_by_layer(
    layers: Sequence[AttentionLayer], heads: Mapping[Any, Sequence[int]] | Iterable[tuple[Any, Any]]
) -> dict[str, tuple[AttentionLayer, list[int]]]:
    """Return the chosen attention heads by path, with original indices checked and sorted.

    Args:
        layers: all attention layers of a model.
        heads: indices by layer, as in `{0: [1, 3]}`; pairs of a layer and an index, as in `[(0, 1), (0, 3)]`; or a head
            mask of transformers 4, [layers, heads] with 0 for the chosen ones, of a model with one kind of attention.

    Raises:
        UsageError: no such layer, no such attention head, or a layer named twice.
    """
    if not isinstance(heads, Mapping):
        return _of_mask(layers, heads) if len(getattr(heads, "shape", ())) == 2 else _of_pairs(layers, heads)
    chosen: dict[str, tuple[AttentionLayer, list[int]]] = {}
    for key, indices in heads.items():
        layer = layer_at(layers, key)
        if layer.path in chosen:
            raise UsageError(f"attention layer {layer.path} is named twice", place=str(key))
        chosen[layer.path] = (layer, _checked(layer, indices))
    return chosen


def _checked(layer: AttentionLayer, indices: Any) -> list[int]:
    checked = _head_indices(indices, layer.path)
    wrong = [index for index in checked if not 0 <= index < layer.heads]
    if wrong:
        cause = f"there is no attention head {wrong[0]}: the layer has {layer.heads}, numbered from 0"
        raise UsageError(cause, place=layer.path)
    return checked


def factors_by_layer(layers: Sequence[AttentionLayer], gates: Any) -> list[tuple[AttentionLayer, Any]]:
    """Return the chosen layers with the factors that are given for them.

    Args:
        layers: all attention layers of a model.
        gates: factors by layer; or an array [layers, heads], of a model with one kind of attention.

    Raises:
        UsageError: no such layer, or the array does not fit the layers.
    """
    if isinstance(gates, Mapping):
        return [(layer_at(layers, key), factors) for key, factors in gates.items()]
    if len(getattr(gates, "shape", ())) != 2:
        cause = f"gates are given by layer, not by a {type(gates).__name__}"
        raise UsageError(cause, hint="give a dict, such as {0: [1, 0, 1, 1]}, or an array [layers, heads]")
    _require_fit(layers, gates)
    return list(zip(layers, gates, strict=True))


def _require_fit(layers: Sequence[AttentionLayer], mask: Any) -> None:
    """Require that [layers, heads] names the attention heads of a model one by one."""
    if len({group_of(layer) for layer in layers}) > 1:
        raise UsageError("a head mask is for models with one kind of attention", hint="give a dict by layer")
    sizes = [layer.heads for layer in layers]
    if [len(row) for row in mask] != sizes:
        shape, wanted = tuple(mask.shape), f"{len(sizes)} layers of {', '.join(map(str, sorted(set(sizes))))} heads"
        raise UsageError(f"a head mask of shape {shape} does not fit {wanted}", hint="give [layers, heads]")


def _of_mask(layers: Sequence[AttentionLayer], mask: Any) -> dict[str, tuple[AttentionLayer, list[int]]]:
    _require_fit(layers, mask)
    rows = mask.tolist()
    wrong = [value for row in rows for value in row if value not in (0, 1)]
    if wrong:
        raise UsageError(f"a head mask has {wrong[0]}", hint="give 0 and 1 here, other factors to `gates`")
    chosen = [[index for index, value in enumerate(row) if not value] for row in rows]
    return {layer.path: (layer, indices) for layer, indices in zip(layers, chosen, strict=True) if indices}


def _of_pairs(layers: Sequence[AttentionLayer], pairs: Any) -> dict[str, tuple[AttentionLayer, list[int]]]:
    chosen: dict[str, tuple[AttentionLayer, list[int]]] = {}
    items = list(pairs) if isinstance(pairs, list | tuple | set | frozenset) else None
    if items is None or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in items):
        cause = f"which attention heads is said by layer, not by a {type(pairs).__name__}"
        raise UsageError(cause, hint="give a dict, such as {0: [1, 3]}, or pairs, such as [(0, 1), (0, 3)]")
    for key, index in items:
        layer = layer_at(layers, tuple(key) if isinstance(key, list) else key)
        before = chosen.get(layer.path, (layer, []))[1]
        chosen[layer.path] = (layer, sorted({*before, *_checked(layer, index)}))
    return chosen


def blocks(layers: Sequence[AttentionLayer]) -> list[str]:
    """Return the paths of the blocks around attention layers, each once.

    A block is the outermost numbered module with no more than one self-attention in it (a stage of a pyramid has
    several).
    """
    self_attention = [caller for layer in layers if layer.kind == "self" for caller in layer.callers]
    paths: dict[str, None] = {}
    for layer in layers:
        for caller in layer.callers:
            parts = caller.split(".")
            around = [".".join(parts[: index + 1]) for index, part in enumerate(parts) if part.isdigit()]
            fitting = [path for path in around if sum(f"{c}.".startswith(f"{path}.") for c in self_attention) <= 1]
            paths[fitting[0] if fitting else caller] = None
    return list(paths)
