"""Divisors of set losses: boxes and masks of the own batch, `counting_alone`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: modules of transformers that ask torch itself for other processes, and the name of the question there
_ASKING_TORCH = ("transformers.loss.loss_lw_detr", "transformers.loss.loss_rf_detr")
_QUESTION = "_is_torch_distributed_initialized"


@contextmanager
def counting_alone() -> Iterator[None]:
    """Have losses of transformers divide by the boxes or masks of their own batch during the block.

    On several processes they add the numbers of all processes up, by a call that each process must make equally often
    (row losses are computed as often as there are rows), and most divide the mean by the number of processes once more.
    What batches of several processes weigh is the business of whoever trains: see `Task.target_counts`.
    """
    from accelerate import PartialState

    modules = [module for name in _ASKING_TORCH if (module := sys.modules.get(name)) is not None]
    questions = [(module, getattr(module, _QUESTION)) for module in modules if hasattr(module, _QUESTION)]
    shared = PartialState._shared_state
    PartialState._shared_state = type(shared)()
    for module, _ in questions:
        setattr(module, _QUESTION, _nobody)
    try:
        yield
    finally:
        PartialState._shared_state = shared
        for module, question in questions:
            setattr(module, _QUESTION, question)


def _nobody() -> bool:
    return False
