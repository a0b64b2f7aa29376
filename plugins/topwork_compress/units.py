"""Units: what a budget is spent on, attention heads and neurons of one model, with costs and scores.

Entry point: `Units`. A unit of an attention layer is an attention head, or all heads that share keys and values; a unit
of a block is a neuron. Layers that can be pruned softly only are left out: that saves no operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from topwork import AttentionLayer, Block
from topwork_lens.flops import Flops, count_flops
from topwork_lens.layers.context import Unit, is_gateable, output_projection, split_heads
from topwork_lens.layers.description import resolve
from topwork_lens.layers.projections import input_dim, weight_shape
from topwork_lens.pruning.preconditions import not_plain
from topwork_lens.pruning.slicing import shared_elsewhere

Kind = Literal["heads", "neurons"]
#: original indices by path
Masks = dict[str, list[int]]


@dataclass(frozen=True)
class Choice:
    """Something that is kept or removed as a whole.

    Args:
        path: of the attention layer or block.
        kind: "heads" or "neurons".
        members: positions, among the heads or neurons that the layer or block has now.
        cost: what keeping it costs, in the unit of the budget.
        score: what is lost without it.
    """

    path: str
    kind: Kind
    members: tuple[int, ...]
    cost: int
    score: float = 0.0


@dataclass
class Units:
    """Attention layers and blocks that a budget can be spent on.

    Args:
        layers: all attention layers of the model.
        blocks: all its blocks.
        chosen: those that can be made smaller, by path.
    """

    layers: list[AttentionLayer]
    blocks: list[Block]
    chosen: dict[str, Unit]

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[AttentionLayer], blocks: Sequence[Block]) -> Units:
        """Collect what can be made smaller."""
        chosen: dict[str, Unit] = {}
        for layer in layers:
            usable = layer.prunable == "hard" and not layer.mixed and is_gateable(layer) and layer.kept
            if usable and not_plain(model, layer) is None and shared_elsewhere(model, layer) is None:
                chosen[layer.path] = layer
        chosen |= {block.path: block for block in blocks if block.prunable and block.kept}
        return cls(list(layers), list(blocks), chosen)

    def choices(self, costs: Mapping[str, int], scores: Mapping[str, torch.Tensor]) -> list[Choice]:
        """Return everything that can be kept or removed.

        Args:
            costs: of one unit, by path.
            scores: by path, of each head or neuron that there is now, or of each group of heads.
        """
        result = []
        for path, unit in self.chosen.items():
            kind: Kind = "heads" if isinstance(unit, AttentionLayer) else "neurons"
            values = scores[path].tolist()
            for index, members in enumerate(members_of(unit)):
                result.append(Choice(path, kind, members, costs[path], values[index]))
        return result

    def original(self, removed: Sequence[Choice]) -> Masks:
        """Return the original indices of what is removed."""
        masks: Masks = {}
        for choice in removed:
            kept = self.chosen[choice.path].kept
            masks.setdefault(choice.path, []).extend(kept[position] for position in choice.members)
        return {path: sorted(indices) for path, indices in masks.items()}


#: kernels of grouped products want rows of whole 16 bytes: 8 numbers of 2 bytes
_EXPERTS = 8
#: widths that kernels like are multiples of it, in blocks of so many neurons or more
_FAST, _WIDE = 16, 128


def width_step(unit: Unit, multiple: int = 1) -> int:
    """Return what the number of neurons that a block keeps is a multiple of; 1 for attention layers.

    Args:
        unit: attention layer or block.
        multiple: of all blocks.
    """
    if not isinstance(unit, Block):
        return 1
    return math.lcm(multiple, _EXPERTS if unit.gate == "weight" else 1)


def timed_multiple(units: Iterable[Unit]) -> int:
    """Return the multiple for widths that are to be fast: 16 where all blocks are wide, else 1.

    At half of the operations of MiniLM, widths in multiples of 16 gave .97 to 1.06 of the counted limit from 256 tokens
    a batch on, any widths .88 to .95 (`tests/benchmarks/compress.py --parts wall`).
    """
    widths = [len(unit.kept) for unit in units if isinstance(unit, Block)]
    return _FAST if min(widths, default=0) >= _WIDE else 1


def members_of(unit: Unit) -> list[tuple[int, ...]]:
    """Return the positions that go together: one each, or the heads that share keys and values."""
    count = len(unit.kept)
    if isinstance(unit, AttentionLayer) and unit.groups_left and len(unit.groups_left) < count:
        ratio = count // len(unit.groups_left)
        return [tuple(range(start, start + ratio)) for start in range(0, count, ratio)]
    return [(position,) for position in range(count)]


def in_groups(unit: Unit, values: torch.Tensor) -> torch.Tensor:
    """Sum [..., heads] over heads that go together: [..., units]."""
    sizes = members_of(unit)
    return values.unflatten(-1, (len(sizes), -1)).sum(-1) if sizes else values


def columns_of(model: nn.Module, unit: Unit) -> torch.Tensor:
    """Return which input features of the projection belong to each head or neuron: [heads or neurons, width]."""
    projection = output_projection(model, unit)
    count = weight_shape(projection)[input_dim(projection)]
    numbers = torch.arange(count)
    spatial = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
    dims = next((dims for kind, dims in spatial.items() if isinstance(projection, kind)), 0)
    value = numbers.reshape(1, count, *[1] * dims) if dims else numbers.reshape(1, 1, count)
    return split_heads(unit, value).reshape(len(unit.kept), -1)


# ---------------------------------------------------------------- costs


@dataclass(frozen=True)
class Costs:
    """Costs of units.

    Args:
        total: of the whole model.
        by_path: of one unit of each layer and block.
        joint: two blocks, and the cost of a projection that reads the neurons of the first and makes those of the
            second: what both remove of it is removed once.
        unit: what is counted: "macs" or "parameters".
    """

    total: int
    by_path: dict[str, int]
    unit: str
    joint: tuple[tuple[str, str, int], ...] = ()

    def counted_twice(self, units: Units, removed: Mapping[str, int]) -> int:
        """Return how much of what is removed was counted twice.

        Args:
            units: of the model.
            removed: how many neurons of each block are removed.
        """
        twice = 0
        for first, second, cost in self.joint:
            if not {first, second} <= set(units.chosen):
                continue
            sizes = len(units.chosen[first].kept) * len(units.chosen[second].kept)
            twice += cost * removed.get(first, 0) * removed.get(second, 0) // sizes
        return twice

    def removable(self, units: Units) -> dict[str, int]:
        """Return what all heads and all neurons cost together, projections between two blocks once."""
        sums = {"heads": 0, "neurons": 0}
        for path, unit in units.chosen.items():
            kind = "heads" if isinstance(unit, AttentionLayer) else "neurons"
            sums[kind] += self.by_path[path] * len(members_of(unit))
        sums["neurons"] -= sum(cost for first, second, cost in self.joint if {first, second} <= set(units.chosen))
        return sums


def _chained(units: Units) -> dict[str, tuple[str, str]]:
    """Return paths of projections that read the neurons of one block and make those of another."""
    blocks = [unit for unit in units.chosen.values() if isinstance(unit, Block)]
    readers = {block.path: block.path for block in blocks}
    return {
        path: (readers[path], block.path)
        for block in blocks
        for producer in block.producers
        if (path := f"{block.inside}.{producer.path}".lstrip(".")) in readers
    }


def _uncut(model: nn.Module, layer: AttentionLayer) -> list[str]:
    """Return paths of projections inside an attention layer that keep their size: they reduce positions, say."""
    cut = {piece.parameter.rpartition(".")[0] for piece in layer.slices}
    return [
        f"{layer.path}.{path}"
        for path, module in model.get_submodule(layer.path).named_modules()
        if path and path not in cut and not any(name.startswith(f"{path}.") for name in cut)
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    ]


def macs(model: nn.Module, units: Units, run: Callable[[], Any]) -> tuple[Costs, Flops]:
    """Count multiply-accumulates of each unit while `run` runs the model on calibration rows."""
    chained = _chained(units)
    whole = {path: _uncut(model, unit) for path, unit in units.chosen.items() if isinstance(unit, AttentionLayer)}
    flops = count_flops(model, units.layers, run, units.blocks)
    alone = [Block(path, "", width=0) for path in {*chained, *(path for paths in whole.values() for path in paths)}]
    single = count_flops(model, [], run, alone).by_block if alone else {}
    by_path = {}
    for path, unit in units.chosen.items():
        counts = flops.by_layer if isinstance(unit, AttentionLayer) else flops.by_block
        stays = sum(single[part] for part in whole.get(path, ()))
        by_path[path] = (counts[path] - stays) // 2 // max(1, len(members_of(unit)))
    joint = tuple((*pair, single[path] // 2) for path, pair in chained.items())
    return Costs(flops.total // 2, by_path, "macs", joint), flops


def parameters(model: nn.Module, units: Units) -> Costs:
    """Count the parameters of each unit; shared ones are counted once."""
    by_path = {}
    for path, unit in units.chosen.items():
        around, count = model.get_submodule(unit.inside), 0
        members = members_of(unit)
        for piece in unit.slices:
            owner_path, _, name = piece.parameter.rpartition(".")
            value = getattr(resolve(around, owner_path), name)
            if isinstance(value, nn.Parameter):
                owned = sum(map(len, piece.indices))
                count += value.numel() // value.shape[piece.dim] * owned // len(members)
        by_path[path] = count
    joint = tuple(
        (*pair, model.get_submodule(path).get_parameter("weight").numel()) for path, pair in _chained(units).items()
    )
    return Costs(sum(parameter.numel() for parameter in model.parameters()), by_path, "parameters", joint)
