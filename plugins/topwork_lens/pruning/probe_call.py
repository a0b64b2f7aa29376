"""The run of a model that pruning is checked with: on the caller's batch, or on one made or remembered.

Entry point: `call_on`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from topwork import Batch, TopworkError
from topwork_lens.model_state import quiet
from topwork_lens.pruning.probes import probe_inputs, remembered_batch
from topwork_lens.refusals import refuse


def call_on(model: nn.Module, check: Any) -> Callable[[], Any]:
    """Return what runs a model on a batch.

    Args:
        model: the model.
        check: a dict of inputs, a `Batch`, or a function that runs the model; None for a random batch, or for the last
            one that was scored, where a random one does not run.
    """
    if callable(check):
        return check
    made: dict[str, Any] = {}

    def call() -> Any:
        if not made:
            made.update(check.inputs if isinstance(check, Batch) else check or _random_or_remembered(model))
            if "use_cache" in inspect.signature(model.forward).parameters:
                # A cache would be filled by one run and read by the next.
                made.setdefault("use_cache", False)
        try:
            return model(**made)
        except Exception as error:
            if check is not None or isinstance(error, TopworkError):
                raise
            cause = f"{type(model).__name__} does not run on a random batch ({type(error).__name__}: {error})"
            raise refuse("check_failed", cause, hint="give one: prune_heads(heads, check=batch)") from error

    return call


def _random_or_remembered(model: nn.Module) -> dict[str, Any]:
    remembered = remembered_batch(model)
    try:
        inputs = probe_inputs(model)
        if remembered is not None:
            with quiet(model):
                model(**inputs)
        return inputs
    except Exception:
        if remembered is None:
            raise
        return remembered
