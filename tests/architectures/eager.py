"""Captured weights against those that the library itself answers: `output_attentions=True` under its implementation
"eager", wherever in the model's output they stand (encoder, decoder, cross, text, vision, nested outputs)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from architectures.feeding import configs
from topwork_lens.capture.result import Captured
from topwork_lens.model_state import quiet

#: the library's own weights and ours may differ by this (issue: 1e-5)
LIMIT = 1e-5


def library_weights(model: Any, inputs: Mapping[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """What the library answers under names that end in "attentions": (name, tensor), in its order; empty when it has
    no eager implementation or cannot answer weights."""
    try:
        output = _run(under_eager(model), inputs)
    except Exception:
        return []
    return list(_found(output, "", False))


def under_eager(model: Any) -> Any:
    """A copy of the model under the library's eager implementation."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    for config in configs(eager.config):
        # Some models refuse the change with a warning, though their modules ask their config at run time.
        config._attn_implementation = "eager"
    return eager


def _run(model: Any, inputs: Mapping[str, Any]) -> Any:
    with torch.no_grad(), quiet(model):
        try:
            return model(**copy.deepcopy(dict(inputs)), output_attentions=True, return_dict=True)
        except TypeError:
            for config in configs(model.config):
                config.output_attentions = True
            return model(**copy.deepcopy(dict(inputs)))


def _found(value: Any, name: str, inside: bool) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        # Not a number: nothing to compare with.
        if inside and value.dim() >= 3 and value.is_floating_point() and bool(value.isfinite().all()):
            yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _found(one, f"{name}.{key}".strip("."), inside or "attentions" in key)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _found(one, name, inside)


def compared(
    seen: Captured, paths: Sequence[str], library: Sequence[tuple[str, torch.Tensor]]
) -> tuple[set[str], list[str]]:
    """The attention layers that have the library's own weights, and where the library says something else.

    A tensor of the library belongs to the first call, in the order of the module tree, that has its shape and agrees;
    one that has the shape of calls that are left over, and agrees with none of them, is a contradiction.
    """
    calls = [
        (path, weights, valid)
        for path in paths
        for weights, valid in zip(seen.calls("weights", path), seen.calls("valid", path), strict=True)
    ]
    agree: set[str] = set()
    wrong: list[str] = []
    taken: set[int] = set()
    for name, weights in library:
        gaps = {
            number: gap(mine, weights, valid)
            for number, (_, mine, valid) in enumerate(calls)
            if number not in taken and mine.shape == weights.shape
        }
        fitting = next((number for number, one in gaps.items() if one <= LIMIT), None)
        if fitting is not None:
            taken.add(fitting)
            agree.add(calls[fitting][0])
        elif gaps:
            best = min(gaps, key=lambda number: gaps[number])
            wrong.append(f"{name} differs from the weights of {calls[best][0]} by {gaps[best]:.2g}")
    return agree, wrong


def gap(mine: torch.Tensor, own: torch.Tensor, valid: torch.Tensor) -> float:
    """The largest difference over queries that are no padding."""
    if own.min() < 0:
        # Some models answer scores.
        own = own.softmax(-1)
    if own.shape[1] > 1 and torch.equal(own, own[:, :1].expand_as(own)):
        # Some models answer the mean over their attention heads, once for each of them.
        mine = mine.mean(1, keepdim=True).expand_as(own)
    difference = (mine.double() - own.double()).abs().amax((1, 3))
    return float(difference[valid].amax()) if bool(valid.any()) else 0.0
