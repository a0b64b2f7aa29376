"""Metrics of a task by the layer at which the model is left, and the rows at which predictions settle.

Entry points: `readable_stack` and `metrics_by_layer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from topwork import Json, Refused, UsageError
from topwork_analyses.exits.early_exit import early_exit
from topwork_lens.capture.result import Captured
from topwork_lens.look import Look


@torch.no_grad()
def readable_stack(look: Look, predict: Callable[[], Any], stack: str | None = None) -> tuple[str, int]:
    """Return the stack whose last state the task head reads, and how many layers it has.

    It is the last stack to run whose states are alike; replacing its last state must change what is predicted.

    Args:
        look: at the model.
        predict: runs the model once and returns tensors, numbers or texts.
        stack: path of a stack, to choose it.

    Raises:
        UsageError: there is no such stack.
        Refused: no stack has states that the task head can read, or it reads those of several layers.
    """
    with look.capture("hidden_states") as seen:
        predicted = predict()
    stacks = seen.hidden_states(run=0)
    if stack is not None and stack not in stacks:
        raise UsageError(f"no stack of layers `{stack}` ran", hint=f"there are {', '.join(stacks)}")
    for path in [stack] if stack is not None else reversed(list(stacks)):
        states = stacks[path]
        if len(states) < 2 or len({state.shape for state in states}) > 1:
            continue
        for edit in (torch.zeros_like, torch.neg, _shuffled):
            with look.patch("hidden_states", {(path, len(states) - 1): edit}):
                reads = repr(predict()) != repr(predicted)
            if reads:
                _require_last(look, path, len(states) - 1, seen, predict, predicted)
                return path, len(states) - 1
    listed = ", ".join(f"{path} ({len({state.shape for state in states})} shapes)" for path, states in stacks.items())
    raise Refused(
        f"no stack of layers has states of one shape of which the task head reads the last ({listed})",
        reason="unknown_layout",
        hint="the task head of this model needs states of several layers or sizes",
    )


def _require_last(
    look: Look, path: str, layers: int, seen: Captured, predict: Callable[[], Any], predicted: Any
) -> None:
    """Refuse a task head that reads other states of a stack than the last one, such as those of DPT and UperNet.

    All states between the first and the last are changed and the last is put back: nothing may be different.
    """
    changed: dict[tuple[str, int], Any] = {(path, index): _shuffled for index in range(1, layers)}
    if not changed:
        return
    with look.patch("hidden_states", {**changed, (path, layers): seen}):
        is_same = repr(predict()) == repr(predicted)
    if not is_same:
        raise Refused(
            "the task head reads states of several layers, not of the last one alone",
            place=path,
            reason="unknown_layout",
            hint="leave this model at a layer by topwork.look(model).patch(...), state by state",
        )


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
