"""What projections read and give, position by position, in the form that least squares takes.

Entry points: `outputs_of`, `inputs_of`. A convolution reads a patch of every channel at each position, so
that fitting its weight is the same problem as fitting that of a linear layer.
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
from topwork_lens.model_state import quiet
from topwork_lens.scoring.row_independence import RowLosses

#: positions of all calibration rows together that one projection is fitted to
MOST = 16384


class _Enough(Exception):
    """The projection ran: the rest of the model need not."""


def is_convolution(projection: nn.Module) -> bool:
    """Return True for a convolution, of which each output reads all channels."""
    return isinstance(projection, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def outputs_of(
    model: nn.Module, units: Mapping[str, Unit], batches: Sequence[Batch], row_losses: RowLosses
) -> dict[str, list[torch.Tensor]]:
    """Return what projections give, batch by batch: [positions, output features], in the order in which they run."""
    values: dict[str, list[torch.Tensor]] = {}
    current: list[Batch] = []
    most = -(-MOST // len(batches))

    def take(path: str, projection: nn.Module, value: torch.Tensor) -> None:
        value = value.detach().movedim(1, -1) if is_convolution(projection) else value.detach()
        values.setdefault(path, []).append(_drawn(value, value.dim() - 1, current[0], most).float())

    with _watched(model, units, take, before=False), quiet(model):
        for batch in batches:
            current[:] = [batch]
            row_losses(model, batch)
    return values


def inputs_of(model: nn.Module, unit: Unit, batches: Sequence[Batch], row_losses: RowLosses) -> list[torch.Tensor]:
    """Return what a projection reads, batch by batch: [positions, input features, weights of each feature]."""
    values: list[torch.Tensor] = []
    current: list[Batch] = []
    most = -(-MOST // len(batches))

    def take(path: str, projection: nn.Module, value: torch.Tensor) -> None:
        value = _patches(projection, value.detach()) if is_convolution(projection) else value.detach()[..., None]
        kernel = len(getattr(projection, "kernel_size", (1,)))
        drawn = _drawn(value, value.dim() - 1 - kernel, current[0], most)
        values.append(drawn.flatten(2).float())
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


def _drawn(value: torch.Tensor, leading: int, batch: Batch, most: int) -> torch.Tensor:
    """Return [positions, ...] of at most so many positions; of tensors with as many positions always the same ones.

    Args:
        value: leading dimensions are positions.
        leading: how many they are.
        batch: says which tokens are padding, where it does.
        most: positions.
    """
    shape, mask = value.shape[:leading], batch.inputs.get("attention_mask")
    index = torch.arange(math.prod(shape), device=value.device)
    if isinstance(mask, torch.Tensor) and mask.shape == shape:
        index = index[(mask != 0).flatten().to(value.device)]
    if len(index) > most:
        generator = torch.Generator().manual_seed(len(index))
        chosen = torch.randperm(len(index), generator=generator)[:most].sort().values
        index = index[chosen.to(index.device)]
    return value[torch.unravel_index(index, shape)]
