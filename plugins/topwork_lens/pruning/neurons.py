"""Ways of pruning the neurons of one block; `job` checks whether one is right, as for attention heads.

Entry point: `neuron_strategies`. Parameters are sliced as the block says; where that is not enough, integers of the
modules around it that are its number of neurons, such as the width by which a fused projection is split, follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from topwork import Block, Size
from topwork_lens.gates import refresh_gates
from topwork_lens.layers.state import write
from topwork_lens.pruning.slicing import Undo, cut


def neuron_strategies(
    model: nn.Module, block: Block, removed: Sequence[int]
) -> Iterator[tuple[Callable[[list[Undo], str], None], None]]:
    """Yield the ways of pruning a block, in the form in which `Strategies` yields those of attention layers.

    Args:
        model: the model.
        block: as it stands now.
        removed: original indices of the neurons to remove.
    """
    hard = partial(_hard, model, block, set(removed))
    yield partial(hard, block.sizes), None
    guesses = guessed_sizes(model, block)
    if guesses and not block.sizes:
        yield partial(hard, guesses), None


def _hard(model: nn.Module, block: Block, removed: set[int], sizes: Sequence[Size], undos: list[Undo], _: str) -> None:
    block = replace(block, sizes=tuple(sizes))
    positions = [position for position, index in enumerate(block.kept) if index not in removed]
    undos.append(cut(model, block, positions, ()))
    kept = [block.kept[position] for position in positions]
    note_neurons(model, block, kept)
    refresh_gates(model, replace(block, kept=tuple(kept)))


def note_neurons(model: nn.Module, block: Block, kept: Sequence[int]) -> None:
    """Note which neurons a block still has, and all that describes it again; nothing when it has all of them."""
    note: dict[str, Any] = {
        "width": block.width,
        "kept": list(kept),
        "sizes": [[size.attribute, size.factor] for size in block.sizes],
    }
    if block.gate == "weight":
        note["experts"] = _experts_note(block)
    else:
        note |= {
            "consumer": block.consumer,
            "producers": [[producer.path, producer.form] for producer in block.producers],
            "between": list(block.between),
        }
    write(model, "blocks", block, note if len(kept) < block.width else None)


def _experts_note(block: Block) -> dict[str, Any]:
    """Return what describes the neurons of experts again, as JSON."""
    dims = {piece.parameter: piece.dim for piece in block.slices}
    return {
        "reader": [block.slices[0].parameter, block.slices[0].dim],
        "makers": [[producer.path, dims[producer.path], producer.form] for producer in block.producers],
    }


def guessed_sizes(model: nn.Module, block: Block) -> tuple[Size, ...]:
    """Return the integers of modules around a block that may be its number of neurons."""
    count, sizes = len(block.kept), []
    around = model.get_submodule(block.inside)
    parts = {block.consumer, *(producer.path for producer in block.producers), *block.between}
    for path, module in around.named_modules():
        if path and path not in block.between and not any(part.startswith(f"{path}.") for part in parts):
            continue
        for name, value in vars(module).items():
            if type(value) is int and value in (count, 2 * count) and not name.startswith("_"):
                sizes.append(Size(f"{path}.{name}".lstrip("."), value // count))
    return tuple(sizes)
