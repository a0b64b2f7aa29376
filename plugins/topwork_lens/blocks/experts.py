"""Neurons of experts whose weights are 3-D parameters of one module, as in the mixtures of experts of transformers 5.

Entry point: `find_experts`. Such a module has no projections that a hook could observe, so a factor acts on the weights
that read the neurons, which is the same. Neuron j is neuron j of every expert: the parameters stay rectangular. Like
`locality`, the test asks the module itself: rows changed in one half of the neurons must change nothing when that half
is not read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from topwork import Block, CheckpointError, Producer, Size, Slices
from topwork_lens.blocks.locality import Form, features_of
from topwork_lens.layers.context import first_input
from topwork_lens.layers.feed_forward import stacked_matrices
from topwork_lens.model_state import quiet
from topwork_lens.pruning.equivalence import Replay

PATTERN = "experts"
#: a change below this share of max|output| is none
_UNCHANGED = 1e-6
#: a parameter that makes neurons: name, dimension, layout along it
Maker = tuple[str, int, Form]


def find_experts(model: nn.Module, call: Callable[[], Any]) -> list[Block]:
    """Find the neurons of experts by a run.

    Args:
        model: the model.
        call: runs it; experts that no token is sent to are not seen.
    """
    candidates = {path: module for path, module in model.named_modules() if len(stacked_matrices(module)) > 1}
    if not candidates:
        return []
    replays = _inputs(model, candidates, call)
    blocks = [_tested(path, module, replays[path]) for path, module in candidates.items() if path in replays]
    return [block for block in blocks if block is not None]


def _parameter(module: nn.Module, name: str) -> torch.Tensor:
    value = module._parameters.get(name)
    if value is None:
        raise CheckpointError(f"there are no experts here: no parameter `{name}`", hint="load it with its own base")
    return value


def _inputs(model: nn.Module, modules: Mapping[str, nn.Module], call: Callable[[], Any]) -> dict[str, Replay]:
    replays: dict[str, Replay] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if path not in replays and (args or kwargs) and isinstance(first_input(args, kwargs), torch.Tensor):
                replays[path] = Replay(module, args, dict(kwargs))

        return hook

    with ExitStack() as stack:
        for path, module in modules.items():
            stack.callback(module.register_forward_pre_hook(watch(path), with_kwargs=True).remove)
        with quiet(model):
            call()
    return replays


def _tested(path: str, module: nn.Module, replay: Replay) -> Block | None:
    for reader, dim, makers in _layouts(module):
        block = describe_experts(path, module, reader, dim, makers)
        if block.width > 1 and _is_local(module, block, replay):
            return block
    return None


def _layouts(module: nn.Module) -> Iterator[tuple[str, int, list[Maker]]]:
    """Yield which parameter may read neurons, along which dimension, and which others may make them, in what layout."""
    stacked = stacked_matrices(module)
    for reader, dim in itertools.product(reversed(stacked), (2, 1)):
        width, other = stacked[reader].shape[dim], stacked[reader].shape[3 - dim]
        options: list[list[Maker]] = []
        for name, value in stacked.items():
            if name == reader:
                continue
            fits: list[Maker] = []
            for along in (1, 2):
                if value.shape[3 - along] == other and value.shape[along] in (width, 2 * width):
                    forms: tuple[Form, ...] = ("rows",) if value.shape[along] == width else ("halves", "pairs")
                    fits += [(name, along, form) for form in forms]
            options.append(fits)
        yield from ((reader, dim, list(makers)) for makers in itertools.product(*options))


def describe_experts(
    path: str,
    module: nn.Module,
    reader: str,
    dim: int,
    makers: Sequence[Maker],
    sizes: Sequence[Size] = (),
    width: int | None = None,
    kept: Sequence[int] | None = None,
) -> Block:
    """Describe the neurons of experts as the parameters stand now.

    Args:
        path: of the module.
        module: has the weights of all experts.
        reader: name of the parameter that reads the neurons.
        dim: its dimension along which they lie.
        makers: what makes them.
        sizes: what pruning corrects.
        width: neurons at the beginning; None: as many as there are now.
        kept: original indices of those that there are now; None for all.

    Raises:
        CheckpointError: the parameters have another number of neurons.
    """
    count = _parameter(module, reader).shape[dim]
    if kept is not None and len(kept) != count:
        raise CheckpointError(f"there are {count} neurons, and {len(kept)} are noted", place=path)
    slices = [Slices(reader, dim, [[index] for index in range(count)])]
    for name, along, form in makers:
        rows = [features_of(form, index, count) for index in range(count)]
        slices.append(Slices(name, along, rows))
        bias = module._parameters.get(f"{name}_bias")
        if bias is not None:
            slices.append(Slices(f"{name}_bias", 1, rows))
    total = count if width is None else width
    return Block(
        path,
        path,
        width=total,
        kept=tuple(range(total) if kept is None else kept),
        producers=tuple(Producer(name, form) for name, _, form in makers),
        slices=tuple(slices),
        sizes=tuple(sizes),
        gate="weight",
        pattern=PATTERN,
    )


def of_experts_note(model: nn.Module, path: str, note: Mapping[str, Any], whole: bool) -> Block:
    """Describe the neurons of experts by what is noted of them.

    Args:
        model: the model.
        path: of the module.
        note: as pruning writes it (`pruning.neurons`).
        whole: the parameters are not pruned yet.

    Raises:
        CheckpointError: the note cannot be true of this model.
    """
    try:
        width, kept, (reader, dim) = note["width"], list(note["kept"]), note["experts"]["reader"]
        makers: list[Maker] = [(name, along, form) for name, along, form in note["experts"]["makers"]]
        sizes = [Size(name, factor) for name, factor in note["sizes"]]
        right = sorted(set(kept) & set(range(width))) == kept
        module = model.get_submodule(path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the manifest is damaged: {error!r}", place=path) from error
    if not right:
        raise CheckpointError(f"the manifest is damaged: no block of {width} neurons keeps {kept[:8]}", place=path)
    return describe_experts(path, module, reader, dim, makers, sizes, width, range(width) if whole else kept)


def _is_local(module: nn.Module, block: Block, replay: Replay) -> bool:
    """Return whether neurons of one half reach the output by the weights alone that read that half."""
    order = torch.randperm(block.width, generator=torch.Generator().manual_seed(block.width)).tolist()
    plain = replay.all_outputs()
    for half in (sorted(order[: block.width // 2]), sorted(order[block.width // 2 :])):
        with _changed(module, block, half):
            if _equal(plain, replay.all_outputs()):
                return False  # it changes nothing even where it is read
        with _unread(module, block, half):
            without = replay.all_outputs()
            with _changed(module, block, half):
                if not _equal(without, replay.all_outputs()):
                    return False
    return True


def _equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    for first, second in zip(a, b, strict=True):
        gap = (first.double() - second.double()).abs().nan_to_num()
        if gap.numel() and float(gap.max()) > _UNCHANGED * float(first.double().abs().nan_to_num().max()):
            return False
    return True


@contextmanager
def _changed(module: nn.Module, block: Block, half: Sequence[int]) -> Iterator[None]:
    """Change everything that makes the neurons of a half."""
    generator = torch.Generator().manual_seed(1)
    with ExitStack() as stack:
        for piece in block.slices[1:]:
            value = _parameter(module, piece.parameter)
            index = torch.tensor(sorted(row for neuron in half for row in piece.indices[neuron]), device=value.device)
            part = value.data.index_select(piece.dim, index)
            noise = float(value.data.float().abs().mean()) * torch.randn(part.shape, generator=generator).to(part)
            stack.enter_context(_with_data(value, value.data.index_copy(piece.dim, index, 1.5 * part + noise)))
        yield


@contextmanager
def _unread(module: nn.Module, block: Block, half: Sequence[int]) -> Iterator[None]:
    """Make the weights that read a half 0."""
    piece = block.slices[0]
    value = _parameter(module, piece.parameter)
    with _with_data(value, value.data.index_fill(piece.dim, torch.tensor(half, device=value.device), 0)):
        yield


@contextmanager
def _with_data(parameter: Any, data: torch.Tensor) -> Iterator[None]:
    before = parameter.data
    parameter.data = data
    try:
        yield
    finally:
        parameter.data = before
