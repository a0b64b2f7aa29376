"""Search for what the pattern of an attention layer leaves out, by exact sizes; the check of pruning proves a choice.

A pattern says where queries, keys, values and the output projection lie. Whatever else in the module depends on the
number of attention heads shows it by its size: an integer that is their number or their whole width, a parameter with
an entry for each of them, an argument that has all of them, a reshape. A *variant* is one choice of these, as JSON, so
that the manifest can keep the one that passed (`layers.variant` applies it):

- "sizes": [attribute, factor, of] as in `Size`; they replace those of the pattern;
- "parts": [parameter, dimension, "head" or "group", pieces]: more that is cut, pieces as in `Part.stack`;
- "arguments": [name, dimension, folded]: what is cut of the module's arguments (see `arguments`);
- "fused": a fused projection, one of `candidates`;
- "inside": true when torch's multi-head attention is called for all original attention heads (`layers.torch_mha`);
- "fit": "last" or "first" when reshapes are fitted, by which of several sizes is meant, and "sites": where (see
  `reshapes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Size
from topwork_lens.layers.context import module_at
from topwork_lens.layers.description import features, is_projection, output_dim, resolve
from topwork_lens.layers.name_matching import COUNTS, NOT_SIZES, SIZE_WORDS, WIDTHS
from topwork_lens.layers.torch_mha import is_folded
from topwork_lens.layers.variant import with_fused
from topwork_lens.pruning.arguments import sliceable_in_all
from topwork_lens.pruning.equivalence import Replay
from topwork_lens.pruning.slicing import OwnConfig

Variant = dict[str, Any]

#: how many variants of one layer are tried
LIMIT = 60
#: how many of the parameters that a pattern leaves out are tried alone
ALONE = 6


def candidates(model: nn.Module, layer: AttentionLayer) -> Iterator[dict[str, Any]]:
    """Yield what a fused projection of the layer might look like, as JSON: {"path", "order", "groups"}.

    order "stacked": all queries, then the keys, then the values of all groups; "grouped": for one group after the other
    its queries, its key, its value. Only for a layer of which nothing but the output projection is described. A wrong
    order would remove rows of attention heads that stay, which the check sees.
    """
    if {piece.parameter.rpartition(".")[0] for piece in layer.slices} != {layer.output}:
        return
    heads = len(layer.kept)
    for path, below in module_at(model, layer.path).named_modules():
        if path in ("", layer.output) or not is_projection(below) or features(below) % layer.width:
            continue
        groups, odd = divmod(features(below) // layer.width - heads, 2)
        if groups > 0 and not odd and heads % groups == 0:
            for order in ("stacked", "grouped"):
                yield {"path": path, "order": order, "groups": groups}


def variants(model: nn.Module, layer: AttentionLayer, replays: Sequence[Replay]) -> Iterator[Variant]:
    """Yield variants of a layer's description, the simplest first.

    No more than `LIMIT` without fitted reshapes, and no more with them.

    Args:
        model: the model that the layer is part of.
        layer: the layer as it is described now.
        replays: calls of the layer, whose arguments may have something for each attention head.
    """
    layouts: list[Any] = [*candidates(model, layer)] or [None]
    if is_folded(module_at(model, layer.path)):
        yield {"sizes": [], "inside": True}
        return
    for fit in ("", "last", "first"):
        for fused in layouts:
            yield from islice(_variants_of(model, layer, replays, fused, fit), LIMIT // len(layouts))


def _variants_of(
    model: nn.Module, layer: AttentionLayer, replays: Sequence[Replay], fused: Any, fit: str
) -> Iterator[Variant]:
    described = with_fused(model, layer, fused) if fused else layer
    before = {name: value for name, value in (layer.variant or {}).items() if name != "sites"}
    fixed = {**before, **({"fused": fused} if fused else {}), **({"fit": fit} if fit else {})}
    arguments = sliceable_in_all(layer, [(replay.module, replay.args, replay.kwargs) for replay in replays])
    for chosen in _distinct([[], arguments]):
        for parts in _distinct(_parts(model, described, 0 if fit else ALONE)):
            for sizes in _distinct(_sizes(model, described, fit)):
                variant: Variant = {**fixed, "sizes": sizes}
                if parts:
                    variant["parts"] = [*before.get("parts", ()), *parts]
                if chosen:
                    variant["arguments"] = chosen
                if variant != {**before, "sizes": [_as_json(size) for size in layer.sizes]}:
                    yield variant


def _distinct(choices: Iterable[Any]) -> Iterator[Any]:
    seen: list[Any] = []
    for choice in choices:
        if choice not in seen:
            seen.append(choice)
            yield choice


def _as_json(size: Size) -> list[Any]:
    return [size.attribute, size.factor, size.of]


def _sizes(model: nn.Module, layer: AttentionLayer, fit: str) -> list[list[list[Any]]]:
    """Return choices of integers that are corrected.

    The pattern's own; those of the modules that hold what is cut, of all modules below, of the configuration as well;
    none at all when reshapes are fitted or the module computes the width of an attention head from them.
    """
    described = [_as_json(size) for size in layer.sizes]
    module = module_at(model, layer.path)
    holders = _holders(layer)
    near: list[Any] = []
    inside: list[Any] = []
    counted: list[Any] = []
    configured: list[Any] = []
    for path, below in module.named_modules():
        prefix = f"{path}." if path else ""
        if type(below).__module__.startswith("torch.nn."):
            continue
        integers = _integers(layer, vars(below), prefix)
        inside += integers
        near += integers if path in holders else []
        config = getattr(below, "config", None)
        if config is not None and not isinstance(config, Mapping | nn.Module | OwnConfig) and path in holders:
            integers = _integers(layer, vars(config), f"{prefix}config.")
            counted += [size for size in integers if size[0].rpartition(".")[2] in _COUNTED]
            configured += integers
    names = {size[0] for size in inside}
    rest = [size for size in described if size[0] not in names]
    choices = [
        described,
        [*near, *rest],
        [*inside, *rest],
        [*near, *rest, *counted],
        [*near, *rest, *configured],
    ]
    return [*choices, []] if fit or described else choices


def _holders(layer: AttentionLayer) -> set[str]:
    """Return the paths of the modules whose children are cut, and of the attention module itself."""
    projections = [piece.parameter.rpartition(".")[0] for piece in layer.slices]
    return {"", *(path.rpartition(".")[0] for path in projections)}


_COUNTED = {*COUNTS, "num_key_value_heads", "num_kv_heads", "kv_n_heads"}


def _integers(layer: AttentionLayer, values: Mapping[str, Any], prefix: str) -> list[list[Any]]:
    sizes = []
    for name, value in values.items():
        if type(value) is int and value > 1 and _is_size(name):
            meaning = _meaning(layer, name, value)
            if meaning is not None:
                sizes.append([prefix + name, *meaning])
    return sizes


def _is_size(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in SIZE_WORDS) and not any(word in lower for word in NOT_SIZES)


def _meaning(layer: AttentionLayer, name: str, value: int) -> tuple[int, str] | None:
    """Return factor and kind of what an integer counts, by its value and, where kinds are equally many, its name."""
    heads, groups = len(layer.kept), len(layer.groups_left)
    shared = "kv" in name or "key_value" in name
    if name in WIDTHS or "head_dim" in name:
        return None
    if "head_size" not in name and (name in COUNTS or any(word in name for word in ("head", "group", "rep"))):
        if groups < heads and value == heads // groups and ("groups" in name or "rep" in name):
            return 1, "ratio"
        if value == groups and (groups < heads or shared):
            return 1, "groups"
        if value == heads:
            return 1, "heads"
    widths = {layer.width} | {len(piece.indices[0]) for piece in layer.slices if piece.indices}
    for width in sorted(widths):
        if width > 1 and value == groups * width and groups > 1 and (shared or value != heads * width):
            return width, "groups"
        if width > 1 and value == heads * width:
            return width, "heads"
    return None


def _parts(model: nn.Module, layer: AttentionLayer, alone: int) -> list[list[list[Any]]]:
    """Return choices of further parameters and buffers with something for each attention head or key/value group.

    The first `alone` of them also alone.
    """
    module = module_at(model, layer.path)
    covered = {piece.parameter for piece in layer.slices}
    elsewhere = _elsewhere(model, layer)
    counts = [("head", len(layer.kept))]
    if len(layer.groups_left) != counts[0][1]:
        counts.append(("group", len(layer.groups_left)))
    learned: list[list[Any]] = []
    buffers: list[list[Any]] = []
    for path, owner in module.named_modules():
        tensors = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for name, tensor in tensors:
            full = f"{path}.{name}" if path else name
            if full in covered or path == layer.output or id(tensor) in elsewhere or not tensor.is_floating_point():
                continue
            dimension = _dimension(owner, name, tensor, counts, layer.width)
            if dimension is not None:
                (learned if isinstance(tensor, nn.Parameter) else buffers).append([full, *dimension])
    numbers = [count for _, count in counts]
    small = [part for part in learned if _tensor(module, part[0]).shape[part[1]] in numbers]
    holders = _holders(layer)
    near = [part for part in learned if part[0].rpartition(".")[0] in holders]
    linear = [part for part in learned if _is_of_projection(module, part[0])]
    plain = [part for part in learned if part not in linear]
    # Gates are written by every architecture for itself, and an indexer has attention heads of its own.
    top = [part for part in learned if "gate" in part[0] or (part in small and part[0].count(".") < 2)]
    owned = [part for part in learned if _is_of_layer(module, part[0])]
    sure = [part for part in learned if part in owned or part in small]
    choices = [[], near, small, top, plain, linear, owned, sure, learned, [*learned, *buffers]]
    return [*choices, *([part] for part in [*small, *learned][:alone])]


def _tensor(module: nn.Module, path: str) -> torch.Tensor:
    return cast(torch.Tensor, resolve(module, path))


def _is_of_projection(module: nn.Module, parameter: str) -> bool:
    return is_projection(resolve(module, parameter.rpartition(".")[0]))


def _is_of_layer(module: nn.Module, parameter: str) -> bool:
    owner = resolve(module, parameter.rpartition(".")[0])
    return _is_of_projection(module, parameter) or isinstance(owner, nn.Conv1d | nn.Conv2d)


def _elsewhere(model: nn.Module, layer: AttentionLayer) -> set[int]:
    """Return ids of parameters and buffers that something outside the layer uses too."""
    ids: set[int] = set()
    for path, other in model.named_modules(remove_duplicate=False):
        if not any(f"{path}.".startswith(f"{caller}." if caller else "") for caller in layer.callers):
            ids.update(map(id, (*other.parameters(recurse=False), *other.buffers(recurse=False))))
    return ids


def _dimension(
    owner: nn.Module, name: str, tensor: torch.Tensor, counts: Sequence[tuple[str, int]], width: int
) -> tuple[int, str, int] | None:
    """Return the dimension of a tensor that counts attention heads or groups, which of them, and in how many pieces."""
    dims = list(range(tensor.dim()))
    if name == "weight" and is_projection(owner) and not isinstance(owner, nn.Embedding):
        dims = [output_dim(owner)]
    elif name == "weight" and isinstance(owner, nn.Embedding):
        dims = [1]
    elif name == "weight" and tensor.dim() > 2:
        dims = [0]
    for factor, pieces in ((1, 1), (width, 1), (2 * width, 2), (3 * width, 3)):
        for per, count in counts:
            for dim in dims:
                if count > 1 and tensor.shape[dim] == factor * count:
                    # Convolutions run over what was put side by side, projections make it head by head.
                    return dim, per, pieces if isinstance(owner, nn.Conv1d | nn.Conv2d) else 1
    return None
