"""Each row as if it were alone: the conditions under which one pass over a batch may stand for one pass over each row.

Random numbers depend on the row, the model runs once for all rows of a batch, and no row's loss depends on another row.
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

RowLosses = Callable[[nn.Module, Batch], torch.Tensor]

#: for each model the row losses that were seen not to depend on other rows: looking costs a backward pass
_ALONE: WeakKeyDictionary[nn.Module, list[Callable[[], Any]]] = WeakKeyDictionary()


class Alone:
    """Whether some row losses of a model were seen not to depend on other rows."""

    def __init__(self, model: nn.Module, row_losses: RowLosses) -> None:
        self.model, self.row_losses = model, row_losses

    @property
    def known(self) -> bool:
        """Whether they were."""
        return any(known() == self.row_losses for known in _ALONE.get(self.model, ()))

    def note(self) -> None:
        """Remember that they were."""
        # A strong reference would keep the task, and with it the model, alive.
        one = self.row_losses
        _ALONE.setdefault(self.model, []).append(WeakMethod(one) if isinstance(one, MethodType) else ref(one))


def independent(losses: torch.Tensor, leaves: list[torch.Tensor], batch: Batch) -> None:
    """Refuse when the first row's loss depends on other rows' gates."""
    gradients = torch.autograd.grad(losses[0], leaves, retain_graph=True, allow_unused=True)
    others = [item for item, row in enumerate(batch.rows) if row != 0]
    for gradient in gradients:
        if gradient is None:
            continue
        share = gradient.shape[0] // len(batch)
        entries = gradient.unflatten(0, (len(batch), share)) if share > 1 else gradient
        if float(entries[others].abs().sum()) > 0:
            raise refuse(
                "batch_coupled",
                "the loss of one row depends on the attention heads of another",
                hint="score one row at a time: batch_size: 1",
            )


def by_row(row_losses: RowLosses, seed: int) -> RowLosses:
    """The same losses; what they draw at random depends on the row alone.

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
            if not bool(losses.isfinite().all()):
                place = int((~losses.isfinite()).nonzero().flatten()[0])
                said = f"row {batch.row_numbers[place]}" if len(losses) == batch.row_count else "a row"
                cause = f"the loss of {said} is {float(losses.detach().flatten()[place])}: it would hide all other rows"
                raise UsageError(cause, hint="leave that row out, or look why the model answers it with such numbers")
            return losses

    return seeded


@contextmanager
def one_run(model: nn.Module, batch: Batch) -> Iterator[None]:
    """What is measured inside belongs to the items of the batch, in their order: the model may run once only, unless
    the batch has one row.

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
