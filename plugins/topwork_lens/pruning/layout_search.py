"""What a row leaves out of an attention module, found by exact sizes and proved by the check of pruning.

A row says where queries, keys, values and the output projection lie. Whatever else in the module depends on the number
of attention heads shows it by its size: an integer that is their number or their whole width, a parameter with one
entry for each of them, an argument that has all of them, a reshape. A *variant* is one choice of these, as JSON, so
that the manifest can keep the one that passed:

- "sizes": [attribute, factor, of] as in `Size`; they replace those of the row;
- "parts": [parameter, dimension, "head" or "group", pieces]: more that is cut, pieces as in `Part.stack`;
- "arguments": [name, dimension, folded]: what is cut of what the module is called with (see `arguments.py`);
- "fused": a fused projection (see `fused.py`);
- "inside": true when torch's multi-head attention is called for all original attention heads (see `multihead.py`);
- "fit": "last" or "first" when reshapes are fitted, by which of several entries is meant (see `fitting.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Size
from topwork_lens.gates import module_at
from topwork_lens.layers.description import is_projection, output_dim, resolve
from topwork_lens.layers.name_matching import COUNTS, NOT_SIZES, SIZE_WORDS, WIDTHS
from topwork_lens.layers.torch_mha import is_folded
from topwork_lens.layers.variant import with_fused
from topwork_lens.pruning.arguments import sliceable
from topwork_lens.pruning.equivalence import Replay
from topwork_lens.pruning.fused import candidates
from topwork_lens.pruning.slicing import OwnConfig

Variant = dict[str, Any]

#: how many variants of one layer are tried
LIMIT = 60
#: how many of the parameters that a row leaves out are tried alone
ALONE = 6


def variants(model: nn.Module, layer: AttentionLayer, replay: Replay) -> Iterator[Variant]:
    """Ways to describe the layer, the simplest first; the description itself is not among them.

    No more than `LIMIT` without fitted reshapes, and no more with them.
    """
    fused: list[Any] = [*candidates(model, layer)] or [None]
    if is_folded(module_at(model, layer.path)):
        yield {"sizes": [], "inside": True}
        return
    for fit in ("", "last", "first"):
        for said in fused:
            yield from islice(_of(model, layer, replay, said, fit), LIMIT // len(fused))


def _of(model: nn.Module, layer: AttentionLayer, replay: Replay, fused: Any, fit: str) -> Iterator[Variant]:
    described = with_fused(model, layer, fused) if fused else layer
    before = layer.variant or {}
    fixed = {**before, **({"fused": fused} if fused else {}), **({"fit": fit} if fit else {})}
    arguments = sliceable(replay.module, layer, replay.args, replay.kwargs)
    for chosen in _once([[], arguments]):
        for parts in _once(_parts(model, described, 0 if fit else ALONE)):
            for sizes in _once(_sizes(model, described, fit)):
                found: Variant = {**fixed, "sizes": sizes}
                if parts:
                    found["parts"] = [*before.get("parts", ()), *parts]
                if chosen:
                    found["arguments"] = chosen
                if found != {**before, "sizes": [_entry(size) for size in layer.sizes]}:
                    yield found


def _once(choices: Sequence[Any]) -> Iterator[Any]:
    seen: list[Any] = []
    for choice in choices:
        if choice not in seen:
            seen.append(choice)
            yield choice


def _entry(size: Size) -> list[Any]:
    return [size.attribute, size.factor, size.of]


def _sizes(model: nn.Module, layer: AttentionLayer, fit: str) -> list[list[list[Any]]]:
    """Choices of integers: the row's own; those of the modules that hold what is cut, of all modules below, of the
    configuration as well; none at all when reshapes are fitted or the module computes the width of an attention head
    from them."""
    own = [_entry(size) for size in layer.sizes]
    module = module_at(model, layer.path)
    holders = _holders(layer)
    near: list[Any] = []
    inside: list[Any] = []
    told: list[Any] = []
    more: list[Any] = []
    for path, below in module.named_modules():
        prefix = f"{path}." if path else ""
        if type(below).__module__.startswith("torch.nn."):
            continue
        found = _integers(layer, vars(below), prefix)
        inside += found
        near += found if path in holders else []
        config = getattr(below, "config", None)
        if config is not None and not isinstance(config, Mapping | nn.Module | OwnConfig) and path in holders:
            found = _integers(layer, vars(config), f"{prefix}config.")
            told += [entry for entry in found if entry[0].rpartition(".")[2] in _COUNTED]
            more += found
    names = {entry[0] for entry in inside}
    rest = [entry for entry in own if entry[0] not in names]
    choices = [own, [*near, *rest], [*inside, *rest], [*near, *rest, *told], [*near, *rest, *more]]
    return [*choices, []] if fit or own else choices


def _holders(layer: AttentionLayer) -> set[str]:
    """Paths of the modules whose children are cut, and of the attention module itself."""
    projections = [piece.parameter.rpartition(".")[0] for piece in layer.slices]
    return {"", *(path.rpartition(".")[0] for path in projections)}


_COUNTED = {*COUNTS, "num_key_value_heads", "num_kv_heads", "kv_n_heads"}


def _integers(layer: AttentionLayer, values: Mapping[str, Any], prefix: str) -> list[list[Any]]:
    found = []
    for name, value in values.items():
        if type(value) is int and value > 1 and _is_size(name):
            meant = _meaning(layer, name, value)
            if meant is not None:
                found.append([prefix + name, *meant])
    return found


def _is_size(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in SIZE_WORDS) and not any(word in lower for word in NOT_SIZES)


def _meaning(layer: AttentionLayer, name: str, value: int) -> tuple[int, str] | None:
    """What an integer counts, by its value and, where two things are equally many, by its name."""
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
    """Choices of further parameters and buffers with something for each attention head or key/value group; the first
    `alone` of them also alone."""
    module = module_at(model, layer.path)
    covered = {piece.parameter for piece in layer.slices}
    elsewhere = _elsewhere(model, layer)
    counts = [("head", len(layer.kept))]
    if len(layer.groups_left) != counts[0][1]:
        counts.append(("group", len(layer.groups_left)))
    learned: list[list[Any]] = []
    others: list[list[Any]] = []
    for path, owner in module.named_modules():
        tensors = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for name, tensor in tensors:
            full = f"{path}.{name}" if path else name
            if full in covered or path == layer.output or id(tensor) in elsewhere or not tensor.is_floating_point():
                continue
            found = _dimension(owner, name, tensor, counts, layer.width)
            if found is not None:
                (learned if isinstance(tensor, nn.Parameter) else others).append([full, *found])
    small = [entry for entry in learned if _tensor(module, entry[0]).shape[entry[1]] in [one for _, one in counts]]
    holders = _holders(layer)
    near = [entry for entry in learned if entry[0].rpartition(".")[0] in holders]
    linear = [entry for entry in learned if _of_projection(module, entry[0])]
    plain = [entry for entry in learned if entry not in linear]
    # Gates are written by every architecture for itself, and an indexer has attention heads of its own.
    top = [entry for entry in learned if "gate" in entry[0] or (entry in small and entry[0].count(".") < 2)]
    owned = [entry for entry in learned if _of_layer(module, entry[0])]
    sure = [entry for entry in learned if entry in owned or entry in small]
    choices = [[], near, small, top, plain, linear, owned, sure, learned, [*learned, *others]]
    return [*choices, *([entry] for entry in [*small, *learned][:alone])]


def _tensor(module: nn.Module, path: str) -> torch.Tensor:
    return cast(torch.Tensor, resolve(module, path))


def _of_projection(module: nn.Module, parameter: str) -> bool:
    return is_projection(resolve(module, parameter.rpartition(".")[0]))


def _of_layer(module: nn.Module, parameter: str) -> bool:
    owner = resolve(module, parameter.rpartition(".")[0])
    return _of_projection(module, parameter) or isinstance(owner, nn.Conv1d | nn.Conv2d)


def _elsewhere(model: nn.Module, layer: AttentionLayer) -> set[int]:
    """Parameters and buffers that something outside the layer uses too."""
    found: set[int] = set()
    for path, other in model.named_modules(remove_duplicate=False):
        if not any(f"{path}.".startswith(f"{caller}." if caller else "") for caller in layer.callers):
            found.update(id(one) for one in (*other.parameters(recurse=False), *other.buffers(recurse=False)))
    return found


def _dimension(
    owner: nn.Module, name: str, tensor: torch.Tensor, counts: Sequence[tuple[str, int]], width: int
) -> tuple[int, str, int] | None:
    """The dimension of a tensor that counts attention heads or groups, which of them, and in how many pieces."""
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
