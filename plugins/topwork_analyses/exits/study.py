"""Metrics of a task by the layer at which the model is left, and the rows at which predictions settle.

Entry points: `readable_stack` and `metrics_by_layer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from topwork import Json, Refused, UsageError
from topwork_analyses.exits.early_exit import early_exit
from topwork_lens.look import Look


@torch.no_grad()
def readable_stack(look: Look, predict: Callable[[], Any], stack: str | None = None) -> tuple[str, int]:
    """Return the stack whose last state the task head reads, and how many layers it has.

    It is the last stack to run whose states are alike, of those with attention where there are any; replacing its last
    state must change what is predicted. Of a stack with attention a task head may read several states, the last one
    among them or not (BEiT); see `early_exit`. Of a stack without, these may be branches side by side, and are refused.

    Args:
        look: at the model.
        predict: runs the model once and returns tensors, numbers or texts.
        stack: path of a stack, to choose it.

    Raises:
        UsageError: there is no such stack.
        Refused: no stack has states that the task head can read.
    """
    with look.capture("hidden_states") as seen:
        predicted = predict()
    stacks = seen.hidden_states(run=0)
    if stack is not None and stack not in stacks:
        raise UsageError(f"no stack of layers `{stack}` ran", hint=f"there are {', '.join(stacks)}")
    attending = [path for path in stacks if any(layer.path.startswith(f"{path}.") for layer in look.layers)]
    ordered = [*reversed(attending), *(path for path in reversed(list(stacks)) if path not in attending)]
    for path in [stack] if stack is not None else ordered:
        states = stacks[path]
        if len(states) < 2 or len({state.shape for state in states}) > 1:
            continue
        layers = len(states) - 1
        if reads_several(look, path, layers, predict):
            if path in attending:
                return path, layers
        elif _reads_last(look, path, layers, predict, predicted):
            return path, layers
    listed = ", ".join(f"{path} ({len({state.shape for state in states})} shapes)" for path, states in stacks.items())
    raise Refused(
        f"no stack of layers has states of one shape of which the task head reads the last ({listed})",
        reason="unknown_layout",
        hint="the task head of this model needs states of several sizes",
    )


def _reads_last(look: Look, stack: str, layers: int, predict: Callable[[], Any], predicted: Any) -> bool:
    for edit in (torch.zeros_like, torch.neg, _shuffled):
        with look.patch("hidden_states", {(stack, layers): edit}):
            if not same(predict(), predicted):
                return True
    return False


@torch.no_grad()
def reads_several(look: Look, stack: str, layers: int, predict: Callable[[], Any]) -> bool:
    """Return whether the task head reads other states of a stack than the last one, as those of DPT and UperNet do.

    All states between the first and the last are changed and the last is put back: then nothing else is different.
    """
    changed: dict[tuple[str, int], Any] = {(stack, index): _shuffled for index in range(1, layers)}
    if not changed:
        return False
    with look.capture("hidden_states") as seen:
        predicted = predict()
    with look.patch("hidden_states", {**changed, (stack, layers): seen}):
        return not same(predict(), predicted)


def same(first: Any, second: Any) -> bool:
    """Return whether two predictions are equal in every number: large arrays too, of which `repr` shows the edges."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second) or repr(first) == repr(second)


def metrics_by_layer(
    look: Look, stack: str, layers: int, evaluate: Callable[[], dict[str, Json]]
) -> list[dict[str, Json]]:
    """Return the metrics of the model left at each layer.

    Args:
        look: at the model.
        stack: path of the stack that the task head reads.
        layers: how many layers it has.
        evaluate: measures the model as it is.

    Returns:
        [{"layer": index, metric: number}], from the embeddings (0) to the whole model.
    """
    lines = []
    for layer in range(layers + 1):
        with early_exit(look, stack, layer, layers):
            metrics = evaluate()
        lines.append({"layer": layer, **{name: value for name, value in metrics.items() if _is_number(value)}})
    return lines


def first_within(values: Sequence[float | None], share: float, *, higher_is_better: bool) -> int | None:
    """Return the first layer whose metric reaches a share of that of the whole model.

    Args:
        values: metric of each layer, that of the whole model last; None where it is undefined.
        share: of the whole model's metric; where low is good, the metric may be that many times higher (1 / share).
        higher_is_better: whether a high metric is good.

    Returns:
        None where the whole model's metric has no share that says something: undefined, negative, or a 0 that is bad.
    """
    whole = values[-1]
    if whole is None or not math.isfinite(whole) or whole < 0 or (higher_is_better and whole == 0):
        return None
    bound = whole * share if higher_is_better else whole / share
    known = ((layer, value) for layer, value in enumerate(values) if value is not None)
    return next(layer for layer, value in known if (value >= bound if higher_is_better else value <= bound))


def _shuffled(state: torch.Tensor) -> torch.Tensor:
    return state.roll(1, -1) * 10


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
