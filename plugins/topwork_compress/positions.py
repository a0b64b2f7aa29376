"""What projections read and give, position by position, in the form that least squares takes.

Entry points: `outputs_of`, `inputs_of`; `read_by` and `given_by` of a single run. A convolution reads a patch of every
channel at each position, so that fitting its weight is the same problem as fitting that of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from topwork import Batch
from topwork_lens.layers.context import Unit, first_input, output_projection
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import quiet
from topwork_lens.scoring.row_independence import RowLosses

#: positions of all calibration rows together that one projection is fitted to
MOST = 16384


class _Enough(Exception):
    """The projection ran: the rest of the model need not."""


def is_convolution(projection: nn.Module) -> bool:
    """Return True for a convolution, of which each output reads all channels."""
    return isinstance(projection, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def share_of(batch: Batch, rows: int) -> int:
    """Return how many positions of a batch are read when there are so many calibration rows."""
    return -(-MOST * batch.row_count // rows)


def read_by(projection: nn.Module, value: torch.Tensor, batch: Batch, most: int) -> tuple[torch.Tensor, int]:
    """Return what a projection reads, [positions, input features, weights of each feature], and how many positions ran.

    Args:
        projection: the module.
        value: its input.
        batch: says which tokens are padding, where it does.
        most: positions; of more some are drawn, for the output the same ones.
    """
    if not is_convolution(projection):
        return _drawn(value[..., None], value.dim() - 1, batch, most)
    read, ran = _drawn(_patches(projection, value), value.dim() - 1, batch, most)
    return read.flatten(2), ran


def given_by(projection: nn.Module, value: torch.Tensor, batch: Batch, most: int) -> torch.Tensor:
    """Return what a projection gives, or gradients of it: [positions, output features]; arguments as of `read_by`."""
    last = value.movedim(1, -1) if is_convolution(projection) else value
    return _drawn(last, last.dim() - 1, batch, most)[0]


def outputs_of(
    model: nn.Module, units: Mapping[str, Unit], batches: Sequence[Batch], row_losses: RowLosses
) -> dict[str, list[torch.Tensor]]:
    """Return what projections give, batch by batch: [positions, output features], in the order in which they run."""
    values: dict[str, list[torch.Tensor]] = {}
    current: list[Batch] = []
    rows = sum(batch.row_count for batch in batches)

    def take(path: str, projection: nn.Module, value: torch.Tensor) -> None:
        given = given_by(projection, value.detach(), current[0], share_of(current[0], rows))
        values.setdefault(path, []).append(given)

    with _watched(model, units, take, before=False), quiet(model):
        for batch in batches:
            current[:] = [batch]
            row_losses(model, batch)
    return values


def inputs_of(model: nn.Module, unit: Unit, batches: Sequence[Batch], row_losses: RowLosses) -> list[torch.Tensor]:
    """Return what a projection reads, batch by batch: [positions, input features, weights of each feature]."""
    values: list[torch.Tensor] = []
    current: list[Batch] = []
    rows = sum(batch.row_count for batch in batches)

    def take(path: str, projection: nn.Module, value: torch.Tensor) -> None:
        values.append(read_by(projection, value.detach(), current[0], share_of(current[0], rows))[0])
        raise _Enough

    with _watched(model, {unit.path: unit}, take, before=True), quiet(model):
        for batch in batches:
            current[:] = [batch]
            try:
                row_losses(model, batch)
            except _Enough:
                continue
    return values


@contextmanager
def _watched(model: nn.Module, units: Mapping[str, Unit], take: Any, before: bool) -> Any:
    """Give `take` the path of a unit, its projection, and the input or the output whenever the projection runs."""

    def reads(path: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            take(path, module, first_input(args, kwargs))

        return hook

    def gives(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            take(path, module, output)

        return hook

    with ExitStack() as stack:
        stack.enter_context(unfolded([model.get_submodule(path) for path in units]))
        for path, unit in units.items():
            projection = output_projection(model, unit)
            if before:
                stack.callback(projection.register_forward_pre_hook(reads(path), with_kwargs=True).remove)
            else:
                stack.callback(projection.register_forward_hook(gives(path)).remove)
        yield


def _patches(projection: Any, value: torch.Tensor) -> torch.Tensor:
    """Return a view of what a convolution reads: [items, *output positions, channels, *kernel]."""
    mode = "constant" if projection.padding_mode == "zeros" else projection.padding_mode
    value = functional.pad(value, projection._reversed_padding_repeated_twice, mode=mode)
    sizes = zip(projection.kernel_size, projection.dilation, projection.stride, strict=True)
    for dim, (size, dilation, stride) in enumerate(sizes, start=2):
        value = value.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return value.movedim(1, -1 - len(projection.kernel_size))


def _drawn(value: torch.Tensor, leading: int, batch: Batch, most: int) -> tuple[torch.Tensor, int]:
    """Return at most so many positions, [positions, ...], and how many there are, padding not counted.

    Of tensors of one batch with as many positions always the same ones are drawn.
    """
    shape, mask = value.shape[:leading], batch.inputs.get("attention_mask")
    index = torch.arange(math.prod(shape), device=value.device)
    if isinstance(mask, torch.Tensor) and mask.shape == shape:
        index = index[(mask != 0).flatten().to(value.device)]
    ran = len(index)
    if ran > most:
        generator = torch.Generator().manual_seed(ran)
        chosen = torch.randperm(ran, generator=generator)[:most].sort().values
        index = index[chosen.to(index.device)]
    return value[torch.unravel_index(index, shape)].float(), ran
