"""Widths of blocks that are numbers of a model's config: what plain transformers can build smaller by itself.

Entry points: `plain_widths` and `settle_widths`. No table of names: a model is built without weights (on the device
"meta") from a config with one number changed, and the parameters whose shapes change with it are those of the blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork import Block
from topwork_lens.layers.description import resolve
from topwork_lens.layers.state import write
from topwork_lens.pruning.equivalence import Comparison, agree, run_outputs
from topwork_lens.refusals import refuse

#: words in the names of numbers that may be absent: None stands for a default such as four times the hidden size
_ABSENT = ("inner", "intermediate", "ffn", "ff_dim")


@dataclass(frozen=True)
class PlainWidth:
    """A number of a config, and the blocks whose width it is.

    Args:
        attribute: dotted path in the config, such as "intermediate_size" or "text_config.intermediate_size".
        paths: of all its blocks.
        width: neurons that each of them has now.
        ratio: what the number is multiplied by to give the width; None for a number that is the width.
    """

    attribute: str
    paths: tuple[str, ...]
    width: int
    ratio: int | None = None

    def write(self, config: Any, width: int) -> None:
        """Make the config say another width."""
        owner_path, _, name = self.attribute.rpartition(".")
        owner = _inner(config, owner_path)
        setattr(owner, name, width if self.ratio is None else width / self.ratio)


def plain_widths(model: nn.Module, blocks: Sequence[Block]) -> list[PlainWidth]:
    """Find the numbers of a model's config that are widths of its blocks, and of nothing else.

    Args:
        model: a model of transformers, as its config builds it; others have no such numbers.
        blocks: its blocks.
    """
    config = getattr(model, "config", None)
    usable = [block for block in blocks if block.prunable and not block.removed]
    if config is None or not hasattr(config, "to_dict") or not usable:
        return []
    shapes = _shapes(model)
    if _built(model, copy.deepcopy(config)) != shapes:
        return []
    widths, taken = [], set[str]()
    for candidate in _candidates(config, {len(block.kept) for block in usable}):
        width = max(1, candidate.width // 2)
        smaller = _built(model, copy.deepcopy(config), candidate, width)
        members = _explained(model, usable, shapes, smaller, candidate.width, width) if smaller else ()
        if members and not taken & set(members):
            taken |= set(members)
            widths.append(PlainWidth(candidate.attribute, members, candidate.width, candidate.ratio))
    return widths


def _candidates(config: Any, widths: set[int]) -> Iterator[PlainWidth]:
    for path, owner in _configs(config):
        size = getattr(owner, "hidden_size", None)
        for name, value in owner.to_dict().items():
            attribute = f"{path}.{name}".lstrip(".")
            if isinstance(value, bool) or name not in vars(owner):
                continue
            if isinstance(value, int) and value in widths:
                yield PlainWidth(attribute, (), value)
            elif value is None and any(word in name for word in _ABSENT):
                yield from (PlainWidth(attribute, (), width) for width in sorted(widths))
            elif "ratio" in name and isinstance(size, int) and isinstance(value, int | float):
                if int(value * size) not in widths:
                    continue
                yield PlainWidth(attribute, (), int(value * size), size)


def _configs(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, config
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _configs(value, f"{path}.{name}".lstrip("."))


def _inner(config: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        config = getattr(config, name)
    return config


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _built(
    model: nn.Module, config: Any, number: PlainWidth | None = None, width: int = 0
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model of this class and config, with another width; none where it cannot be built."""
    try:
        if number is not None:
            number.write(config, width)
        with torch.device("meta"):
            return _shapes(type(model)(config))
    except Exception:  # a config that contradicts itself fails in whatever way the architecture's code fails
        return {}


def _explained(
    model: nn.Module, blocks: Sequence[Block], shapes: Any, smaller: Any, before: int, after: int
) -> tuple[str, ...]:
    """Return the paths of the blocks that explain all changes of shape; () where something else changed."""
    if shapes.keys() != smaller.keys():
        return ()
    changed = {name: smaller[name] for name in shapes if shapes[name] != smaller[name]}
    names = {id(value): name for name, value in model.state_dict(keep_vars=True).items()}
    members, expected = [], dict[str, list[int]]()
    for block in blocks:
        around, block_shapes = model.get_submodule(block.inside), dict[str, list[int]]()
        for piece in block.slices:
            owner_path, _, name = piece.parameter.rpartition(".")
            value = getattr(resolve(around, owner_path), name)
            full = names.get(id(value), "")
            shape = block_shapes.setdefault(full, list(shapes.get(full, ())))
            if shape:
                shape[piece.dim] -= sum(map(len, piece.indices)) // len(block.kept) * (len(block.kept) - after)
        if len(block.kept) == before and all(name in changed for name in block_shapes):
            members.append(block.path)
            expected |= block_shapes
    return tuple(members) if {name: tuple(shape) for name, shape in expected.items()} == changed else ()


def settle_widths(
    model: nn.Module, widths: Sequence[PlainWidth], blocks: Sequence[Block], call: Callable[[nn.Module], Any]
) -> Comparison:
    """Write the widths that blocks have now into the config, and forget that they had others.

    A model that plain transformers builds of this config, with these weights, is compared with the one that was cut.

    Args:
        model: the model, whose blocks of each of `widths` have the same number of neurons.
        widths: as of `plain_widths` before it was cut.
        blocks: as they are now.
        call: runs a model on the batch that it is checked with.

    Raises:
        Refused: the two differ; the config is then as it was.
    """
    config: Any = model.config
    by_path = {block.path: block for block in blocks}
    changed = copy.deepcopy(config)
    for width in widths:
        width.write(changed, len(by_path[width.paths[0]].kept))
    again = type(model)(changed).to(next(model.parameters())).eval()
    try:
        again.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise refuse("check_failed", f"plain transformers builds another model: {error}", place="uniform") from error
    cut = run_outputs(model, lambda: call(model))
    comparison = agree(cut, run_outputs(again, lambda: call(again)), cut, "the model that plain transformers builds")
    for width in widths:
        width.write(config, len(by_path[width.paths[0]].kept))
        for path in width.paths:
            write(model, "blocks", by_path[path], None)
    return comparison
