"""Batches that would keep too much for the backward pass, in parts: rows are scored as if each were alone, so that the
cut changes no score, only how much memory is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from topwork import Batch

#: bytes that a forward pass may keep on a CPU: more leaves its caches and gains no speed
ON_A_CPU = 192 * 2**20
#: the share of another device's memory
SHARE = 0.25


def most_kept(device: torch.device) -> int:
    """Bytes that a forward pass may keep for its backward pass."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.get_device_properties(device).total_memory)
    return ON_A_CPU


class TooMuch(Exception):
    """A forward pass was given up because it kept more than it may."""


class Divided:
    """What batches keep is measured on the first of them; one that goes beyond the bound is begun again in halves, and
    later ones are cut by the same rate.

    Args:
        most: bytes that a batch may keep, beside what its inputs and the parameters are; None leaves all as they are.
    """

    def __init__(self, model: nn.Module, most: int | None) -> None:
        self.model, self.most = model, most
        self.rate: float | None = None  # bytes for each number in the inputs

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch, or parts of it that have whole rows and are of like size."""
        if self.most is None or self.rate is None or not _divisible(batch):
            return [batch]
        count = -(-self.rate * _numbers(batch) // self.most)
        return cut(batch, min(max(1, int(count)), batch.row_count))

    def halves(self, batch: Batch) -> list[Batch]:
        """Both halves of a batch that was too much."""
        return cut(batch, 2)

    @contextmanager
    def measured(self, batch: Batch) -> Iterator[None]:
        """The forward pass runs inside.

        Raises:
            TooMuch: it kept more than it may, and the batch can be divided.
        """
        most = self.most
        if most is None or self.rate is not None or not _numbers(batch):
            yield
            return
        given = {tensor.untyped_storage().data_ptr() for tensor in [*self.model.parameters(), *self.model.buffers()]}
        held = 0
        divisible = _divisible(batch)

        def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
            nonlocal held
            storage = tensor.untyped_storage()
            # what needs no gradient (masks, weights that were cast) is not the rows'
            if tensor.requires_grad and storage.data_ptr() not in given:
                given.add(storage.data_ptr())
                held += storage.nbytes()
                if divisible and held > most:
                    raise TooMuch
            # a result that holds itself would never be freed
            return tensor.detach(), tensor._version

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield
        self.rate = held / _numbers(batch)


def _unpack(packed: tuple[torch.Tensor, int]) -> torch.Tensor:
    tensor, version = packed
    if tensor._version != version:
        raise RuntimeError("a tensor that the backward pass needs was changed in place")
    return tensor


def _divisible(batch: Batch) -> bool:
    """Whether it has several rows, and everything in its inputs belongs to one item."""
    return batch.row_count > 1 and all(_by_item(value, len(batch)) for value in batch.inputs.values())


def _by_item(value: Any, items: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and len(value) == items
    return _is_one_for_all(value) or (type(value) in (list, tuple) and len(value) == items)


def _is_one_for_all(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _numbers(batch: Batch) -> int:
    return sum(value.numel() for value in batch.inputs.values() if isinstance(value, torch.Tensor))


def cut(batch: Batch, count: int) -> list[Batch]:
    """So many parts with whole rows, in their order."""
    if count < 2:
        return [batch]
    bounds = [round(batch.row_count * part / count) for part in range(count + 1)]
    found = []
    for first, last in pairwise(bounds):
        places = [place for place, row in enumerate(batch.rows) if first <= row < last]
        inputs = {name: _at(value, places) for name, value in batch.inputs.items()}
        found.append(Batch(inputs, [batch.items[place] for place in places], batch.device, batch.mode))
    return found


def _at(value: Any, places: Sequence[int]) -> Any:
    if isinstance(value, torch.Tensor):
        return value[places]
    return value if _is_one_for_all(value) else type(value)(value[place] for place in places)
