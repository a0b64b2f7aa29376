"""Splitting of batches that would keep too much memory for the backward pass.

Entry point: `BatchSplitter`. Rows are scored as if each were alone, so splitting changes no score.
"""

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


def activation_limit(device: torch.device) -> int:
    """Return the bytes that a forward pass may keep for its backward pass."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.get_device_properties(device).total_memory)
    return ON_A_CPU


class MemoryLimit(Exception):
    """A forward pass was given up because it kept more memory than allowed."""


class BatchSplitter:
    """Splits batches by the memory that the first one keeps.

    The first batch is measured; one that exceeds the limit is begun again in halves. Later batches are split by the
    measured rate.

    Args:
        limit: bytes that a batch may keep, its inputs and the parameters not counted; None: never split.
    """

    def __init__(self, model: nn.Module, limit: int | None) -> None:
        self.model, self.limit = model, limit
        self.rate: float | None = None  # bytes for each number in the inputs

    def parts(self, batch: Batch) -> list[Batch]:
        """Return the batch, or parts of it of like size with whole rows."""
        if self.limit is None or self.rate is None or not _is_divisible(batch):
            return [batch]
        count = -(-self.rate * _count_numbers(batch) // self.limit)
        return split_batch(batch, min(max(1, int(count)), batch.row_count))

    def rows(self, batch: Batch) -> list[Batch]:
        """Return a batch for each row; the batch, where some of its inputs belong to several."""
        return split_batch(batch, batch.row_count) if _is_divisible(batch) else [batch]

    def halves(self, batch: Batch) -> list[Batch]:
        """Return both halves of a batch."""
        return split_batch(batch, 2)

    @contextmanager
    def measuring(self, batch: Batch) -> Iterator[None]:
        """Measure the forward pass that runs in the block, if none was measured before.

        Raises:
            MemoryLimit: it kept more than allowed, and the batch can be split.
        """
        limit = self.limit
        if limit is None or self.rate is not None or not _count_numbers(batch):
            yield
            return
        seen = {tensor.untyped_storage().data_ptr() for tensor in [*self.model.parameters(), *self.model.buffers()]}
        held = 0
        divisible = _is_divisible(batch)

        def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
            nonlocal held
            storage = tensor.untyped_storage()
            # tensors that need no gradient (masks, weights that were cast) do not grow with the rows
            if tensor.requires_grad and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                held += storage.nbytes()
                if divisible and held > limit:
                    raise MemoryLimit
            # a result that holds itself would never be freed
            return tensor.detach(), tensor._version

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield
        self.rate = held / _count_numbers(batch)


def _unpack(packed: tuple[torch.Tensor, int]) -> torch.Tensor:
    tensor, version = packed
    if tensor._version != version:
        raise RuntimeError("a tensor that the backward pass needs was changed in place")
    return tensor


def _is_divisible(batch: Batch) -> bool:
    """Return whether the batch has several rows and everything in its inputs belongs to one item."""
    return batch.row_count > 1 and all(_is_by_item(value, len(batch)) for value in batch.inputs.values())


def _is_by_item(value: Any, items: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and len(value) == items
    return _is_shared(value) or (type(value) in (list, tuple) and len(value) == items)


def _is_shared(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _count_numbers(batch: Batch) -> int:
    return sum(value.numel() for value in batch.inputs.values() if isinstance(value, torch.Tensor))


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """Split a batch into `count` parts with whole rows, in their order."""
    if count < 2:
        return [batch]
    bounds = [round(batch.row_count * part / count) for part in range(count + 1)]
    parts = []
    for first, last in pairwise(bounds):
        items = [item for item, row in enumerate(batch.rows) if first <= row < last]
        inputs = {name: _selected(value, items) for name, value in batch.inputs.items()}
        parts.append(Batch(inputs, [batch.items[item] for item in items], batch.device, batch.mode))
    return parts


def _selected(value: Any, items: Sequence[int]) -> Any:
    if isinstance(value, torch.Tensor):
        return value[items]
    return value if _is_shared(value) else type(value)(value[item] for item in items)
