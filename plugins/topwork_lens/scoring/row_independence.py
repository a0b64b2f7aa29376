"""Conditions under which one pass over a batch gives each row the loss that it has alone.

Entry points: `seeded_by_row` (random numbers depend on the row), `requiring_one_run` (the model runs once for all rows)
and `check_row_independence` (no row's loss depends on another row), whose outcome `RowIndependence` caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod, ref

import torch
from torch import nn

from topwork import Batch, UsageError
from topwork_lens.refusals import refuse

#: (model, batch) -> [rows]
RowLosses = Callable[[nn.Module, Batch], torch.Tensor]

_VERIFIED: WeakKeyDictionary[nn.Module, list[Callable[[], Any]]] = WeakKeyDictionary()


class RowIndependence:
    """Cache of (model, row_losses) pairs whose row losses do not depend on other rows of the batch.

    The check costs one backward pass, so its outcome is kept, by weak reference, for the model's lifetime.
    """

    def __init__(self, model: nn.Module, row_losses: RowLosses) -> None:
        self.model, self.row_losses = model, row_losses

    @property
    def verified(self) -> bool:
        """Whether this pair has passed the check."""
        return any(reference() == self.row_losses for reference in _VERIFIED.get(self.model, ()))

    def mark_verified(self) -> None:
        """Record that this pair has passed the check."""
        # A strong reference would keep the task, and with it the model, alive.
        losses = self.row_losses
        reference = WeakMethod(losses) if isinstance(losses, MethodType) else ref(losses)
        _VERIFIED.setdefault(self.model, []).append(reference)


def check_row_independence(losses: torch.Tensor, leaves: list[torch.Tensor], batch: Batch) -> None:
    """Check that the first row's loss has no gradient in the gates of other rows.

    Args:
        losses: [rows].
        leaves: gates, each [items, ...] or [items * windows, ...].
        batch: the batch, which says which item belongs to which row.

    Raises:
        Refused: it has.
    """
    gradients = torch.autograd.grad(losses[0], leaves, retain_graph=True, allow_unused=True)
    other_items = [item for item, row in enumerate(batch.rows) if row != 0]
    for gradient in gradients:
        if gradient is None:
            continue
        share = gradient.shape[0] // len(batch)
        by_item = gradient.unflatten(0, (len(batch), share)) if share > 1 else gradient
        if float(by_item[other_items].abs().sum()) > 0:
            raise refuse(
                "batch_coupled",
                "the loss of one row depends on the attention heads of another",
                hint="score one row at a time: batch_size: 1",
            )


def seeded_by_row(row_losses: RowLosses, seed: int) -> RowLosses:
    """Wrap row losses so that their random numbers depend on the row alone.

    Raises:
        Refused: a batch of several rows drew random numbers: they would depend on the batch.
        UsageError: a loss is not finite.
    """

    def seeded(model: nn.Module, batch: Batch) -> torch.Tensor:
        devices = [batch.device] if getattr(batch.device, "type", None) == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed((seed * 1_000_003 + batch.row_numbers[0]) % 2**63)
            before = torch.get_rng_state()
            losses = row_losses(model, batch)
            if batch.row_count > 1 and not torch.equal(before, torch.get_rng_state()):
                cause = "the losses of several rows draw random numbers together"
                raise refuse("batch_coupled", cause, hint="score one row at a time: batch_size: 1")
            _check_finite(losses, batch)
            return losses

    return seeded


def _check_finite(losses: torch.Tensor, batch: Batch) -> None:
    infinite = (~losses.isfinite()).flatten()
    if bool(infinite.any()):
        index = int(infinite.nonzero()[0])
        row = f"row {batch.row_numbers[index]}" if len(losses) == batch.row_count else "a row"
        cause = f"the loss of {row} is {float(losses.detach().flatten()[index])}: it would hide all other rows"
        raise UsageError(cause, hint="leave that row out, or look why the model answers it with such numbers")


@contextmanager
def requiring_one_run(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Require that the model runs at most once in the block, unless the batch has one row.

    What is measured inside then belongs to the items of the batch, in their order.

    Raises:
        Refused: it ran more often.
    """
    runs: list[None] = []
    handle = model.register_forward_pre_hook(lambda *_: runs.append(None))
    try:
        yield
    finally:
        handle.remove()
    if len(runs) > 1 and batch.row_count > 1:
        cause = f"the model ran {len(runs)} times for the {batch.row_count} rows of one batch"
        raise refuse("batch_coupled", cause, hint="score one row at a time: batch_size: 1")
