"""Slicing of parameters: gather what the kept attention heads own, and keep the rest apart so that it can be put back.

Entry point: `cut`. A model and its undo together need no more memory than the model had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Slices
from topwork_lens.layers.context import Unit, module_at, output_projection
from topwork_lens.layers.description import resolve
from topwork_lens.layers.projections import is_pointwise
from topwork_lens.layers.torch_mha import count_on
from topwork_lens.pruning.arguments import cut_arguments
from topwork_lens.pruning.reshapes import Counts, fit


@dataclass
class _Removed:
    owner: nn.Module
    name: str
    dim: int
    size: int
    kept: torch.Tensor
    rest: torch.Tensor
    data: torch.Tensor


@dataclass
class Undo:
    """State that puts a cut layer back; `calls` are further steps, done last first, before anything else."""

    removed: list[_Removed] = field(default_factory=list)
    attributes: list[tuple[Any, str, Any]] = field(default_factory=list)
    calls: list[Callable[[], None]] = field(default_factory=list)

    def restore(self) -> None:
        """Put everything back as it was."""
        for call in reversed(self.calls):
            call()
        for piece in reversed(self.removed):
            now = getattr(piece.owner, piece.name)
            if now.shape[piece.dim] == piece.size:
                continue  # it failed before it was cut
            shape = list(now.shape)
            shape[piece.dim] = piece.size
            whole = now.new_empty(shape).detach()
            whole.index_copy_(piece.dim, piece.kept, now.detach())
            whole.index_copy_(piece.dim, piece.rest, piece.data)
            put(piece.owner, piece.name, whole)
            correct_size(piece.owner)
        for owner, name, value in reversed(self.attributes):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


_ABSENT = object()


def cut(model: nn.Module, layer: Unit, heads: Sequence[int], groups: Sequence[int]) -> Undo:
    """Keep some attention heads and key/value groups of a layer, and slice its parameters.

    Args:
        model: the model that the layer is part of.
        layer: as it is now.
        heads: indices among the attention heads that the layer has now.
        groups: indices among its key/value groups; one that is named several times is copied.

    Returns:
        What puts everything back; it is used when something fails.
    """
    module, undo = module_at(model, layer.inside), Undo()
    try:
        for (parameter, dim), pieces in by_parameter(layer).items():
            owner_path, _, name = parameter.rpartition(".")
            owner = resolve(module, owner_path)
            _slice(owner, name, dim, index_of(pieces, heads, groups, getattr(owner, name).shape[dim]), undo)
        for size in layer.sizes:
            owner_path, _, name = size.attribute.rpartition(".")
            _set_size(undo, module, owner_path, name, size.factor * _count(size.of, len(heads), len(groups)))
        if layer.adapter is not None:
            _adapt(module, layer.adapter, heads, undo)
        if isinstance(layer, AttentionLayer):
            _apply_variant(module, layer, heads, groups, undo)
        if not heads:
            undo.calls.append(export_bias(output_projection(model, layer)))
        _clear_caches(module)
        undo.calls.append(partial(_clear_caches, module))
    except BaseException:
        undo.restore()
        raise
    return undo


def _clear_caches(module: nn.Module) -> None:
    """Empty what modules keep of tensors that they computed from their parameters."""
    for below in module.modules():
        for name, value in vars(below).items():
            if name.endswith("_cache") and isinstance(value, dict):
                value.clear()


def _count(of: str, heads: int, groups: int) -> int:
    if of == "ratio":
        return heads // groups if groups and heads else 1
    return heads if of == "heads" else groups


def _adapt(module: nn.Module, adapter: Callable[..., Any], heads: Sequence[int], undo: Undo) -> None:
    # Whatever plain attribute an adapter changes or adds can be put back as well.
    before = dict(vars(module))
    answer = adapter(module, heads)
    after = vars(module)
    undo.attributes += [(module, key, before.get(key, _ABSENT)) for key in after if after[key] is not before.get(key)]
    if answer is not None:
        undo.calls.append(answer)


def _apply_variant(
    module: nn.Module, layer: AttentionLayer, heads: Sequence[int], groups: Sequence[int], undo: Undo
) -> None:
    """Apply what a variant of the layer changes of its calls (see `layout_search`)."""
    variant = layer.variant or {}
    numbers = [layer.kept[position] for position in heads]
    if variant.get("inside"):
        undo.calls.append(count_on(module, layer.heads, numbers))
    if variant.get("arguments"):
        undo.calls.append(cut_arguments(module, variant["arguments"], layer.heads, numbers))
    if variant.get("fit"):
        first = variant["fit"] == "first"
        counts = [Counts(layer.heads, len(heads), layer.width, first)]
        if layer.groups != layer.heads:
            counts.append(Counts(layer.groups, len(groups), layer.width, first))
        undo.calls.append(fit(module, counts, variant.get("sites")))


def groups_of(layer: AttentionLayer) -> list[int]:
    """Return the original numbers of the key/value groups that a layer still has."""
    return list(layer.groups_left)


def by_parameter(layer: Unit) -> dict[tuple[str, int], list[Slices]]:
    """Return the slices of a layer by parameter and dimension: one fused parameter may have several."""
    slices: dict[tuple[str, int], list[Slices]] = {}
    for piece in layer.slices:
        slices.setdefault((piece.parameter, piece.dim), []).append(piece)
    return slices


def index_of(pieces: Sequence[Slices], heads: Sequence[int], groups: Sequence[int], size: int) -> list[int]:
    """Return the positions of a parameter that are kept, in their new order; what no head or group owns stays.

    A group that is named several times is copied: it has one attention head then each time.
    """
    if len(set(groups)) == len(groups):
        kept = {position for piece in pieces for position in gathered(piece.indices, _chosen(piece, heads, groups))}
        owned = {position for piece in pieces for owner in piece.indices for position in owner}
        return [position for position in range(size) if position in kept or position not in owned]
    if len(pieces) == 2 and _alternate(*pieces):
        per_head, per_group = sorted(pieces, key=lambda piece: piece.per != "head")
        pairs = zip(heads, groups, strict=True)
        return [position for head, group in pairs for position in (*per_head.indices[head], *per_group.indices[group])]
    stacked = sorted(pieces, key=lambda piece: min((min(owner) for owner in piece.indices if owner), default=0))
    return [position for piece in stacked for position in gathered(piece.indices, _chosen(piece, heads, groups))]


def _alternate(a: Slices, b: Slices) -> bool:
    """Return whether slices of attention heads and of groups alternate in a parameter."""
    ends = [[position for owner in piece.indices for position in (owner[0], owner[-1])] for piece in (a, b)]
    return a.per != b.per and max(min(ends[0]), min(ends[1])) < min(max(ends[0]), max(ends[1]))


def _chosen(piece: Slices, heads: Sequence[int], groups: Sequence[int]) -> Sequence[int]:
    return heads if piece.per == "head" else groups


def gathered(indices: Sequence[Sequence[int]], chosen: Sequence[int]) -> list[int]:
    """Return the positions of the chosen owners, in the order of the layout: pieces that were stacked stay stacked.

    An owner that is chosen several times is copied, piece by piece.
    """
    if len(set(chosen)) == len(chosen):
        return sorted(position for owner in chosen for position in indices[owner])
    pieces: list[list[int]] = []
    for owner in chosen:
        for number, run in enumerate(_runs(indices[owner])):
            if number == len(pieces):
                pieces.append([])
            pieces[number] += run
    return [position for piece in pieces for position in piece]


def _runs(positions: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _set_size(undo: Undo, module: nn.Module, owner_path: str, name: str, value: int) -> None:
    owner = resolve(module, owner_path)
    if isinstance(owner, nn.Module):
        undo.attributes.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)
        return
    # A configuration belongs to the whole model: the module gets one of its own that differs in this number.
    above, _, attribute = owner_path.rpartition(".")
    holder = resolve(module, above)
    undo.attributes.append((holder, attribute, owner))
    setattr(holder, attribute, OwnConfig(owner, name, value))


class OwnConfig:
    """View of a configuration with one number replaced; later changes of the configuration are seen."""

    def __init__(self, whole: Any, name: str, value: int) -> None:
        self._whole, self._name, self._value = whole, name, value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_whole" not in self.__dict__:
            raise AttributeError(name)
        mapped = (getattr(self._whole, "attribute_map", None) or {}).get(name, name)
        return self._value if mapped == self._name else getattr(self._whole, mapped)


def _slice(owner: Any, name: str, dim: int, index: Sequence[int], undo: Undo) -> None:
    whole: torch.Tensor = getattr(owner, name)
    kept = torch.tensor(index, dtype=torch.long, device=whole.device)
    removed = sorted(set(range(whole.shape[dim])) - set(index))
    rest = torch.tensor(removed, dtype=torch.long, device=whole.device)
    data = whole.detach().index_select(dim, rest)
    undo.removed.append(_Removed(owner, name, dim, whole.shape[dim], kept, rest, data))
    undo.attributes += [(owner, size, getattr(owner, size)) for size in _REMEMBERED if hasattr(owner, size)]
    put(owner, name, whole.detach().index_select(dim, kept).contiguous())
    correct_size(owner)


def put(owner: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a parameter or a buffer by a tensor of another size."""
    old = getattr(owner, name)
    if isinstance(old, nn.Parameter):
        setattr(owner, name, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(owner, name, value)


#: what convolutions and batch norms remember of their size; the weight alone does not say how a convolution is grouped
_REMEMBERED = ("in_channels", "out_channels", "groups", "num_features")


def correct_size(owner: Any) -> None:
    """Correct the integers that torch's own layers (and Conv1D) remember of their weight."""
    weight = getattr(owner, "weight", None)
    if isinstance(owner, nn.Conv1d | nn.Conv2d):
        _correct_convolution(owner)
    elif isinstance(owner, nn.BatchNorm1d | nn.BatchNorm2d) and isinstance(weight, torch.Tensor):
        owner.num_features = weight.shape[0]
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        return
    if hasattr(owner, "nf"):
        owner.nx, owner.nf = weight.shape
    elif isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = weight.shape
    elif isinstance(owner, nn.Embedding):
        owner.num_embeddings, owner.embedding_dim = weight.shape


def _correct_convolution(owner: nn.Conv1d | nn.Conv2d) -> None:
    """Correct the channels of a convolution; one with a filter for each channel keeps one for each that is left."""
    if owner.groups == owner.in_channels > 1:
        owner.in_channels = owner.groups = owner.weight.shape[0]
    else:
        owner.in_channels = owner.weight.shape[1] * owner.groups
    owner.out_channels = owner.weight.shape[0]


def shared_elsewhere(model: nn.Module, layer: Unit) -> str | None:
    """Return the path of a parameter outside the layer that is the very tensor which pruning would cut, or None."""
    module = module_at(model, layer.inside)
    inside = {id(below) for below in module.modules()}
    sliced = {id(resolve(module, piece.parameter)) for piece in layer.slices}
    for path, outside in model.named_modules():
        if id(outside) in inside:
            continue
        for name, parameter in outside._parameters.items():
            if parameter is not None and id(parameter) in sliced:
                return f"{path}.{name}"
    return None


class ExportedBias:
    """Forward hook of an output projection without input features: in an export it returns the bias alone.

    Eager code and compilers compute the bias from a context that has no columns. ONNX has no such products (a size of 0
    in a Reshape means "unchanged" there), so what leads to the projection must drop out of an exported graph.
    """

    def __call__(self, module: nn.Module, args: Any, output: Any) -> torch.Tensor | None:
        """Return the bias, broadcast to the output, while the model is exported; else None, which changes nothing."""
        if not (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
            return None
        bias = getattr(module, "bias", None)
        return output.new_zeros(output.shape) if bias is None else bias.expand(output.shape)


def export_bias(projection: nn.Module) -> Callable[[], None]:
    """Put the hook on an output projection; return what takes it away."""
    if is_pointwise(projection):  # its bias does not lie along the last dimension
        return lambda: None
    return projection.register_forward_hook(ExportedBias()).remove
