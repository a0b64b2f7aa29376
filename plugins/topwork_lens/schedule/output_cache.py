"""Metric and scores of a masked model from one pass: outputs of scoring are reused when the same rows are evaluated.

Entry point: `CachedMeasure`. Scoring and evaluation may batch rows in different ways, so outputs are reused only for
calls with equal tensors. A schedule that scores at every step becomes 1.3 to 1.4 times as fast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from topwork_lens.gates import GateHook
from topwork_lens.schedule.schedule import Masks

#: bytes of outputs that are kept; later ones are computed again
LIMIT = 64 * 2**20
Scores = TypeVar("Scores")
_LENS = "topwork_lens."


class OutputCache:
    """Outputs of a model in evaluation mode, by the tensors that it was called with and the hooks that it then had.

    A task may change what the model gives by a hook of its own, such as logits of some positions alone.

    Attributes:
        hits: how many calls were answered from the cache.
    """

    def __init__(self) -> None:
        self.size = self.hits = 0
        self.calls: list[tuple[dict[str, Any], frozenset[int], Any]] = []

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Keep outputs of calls in the block that drew no random numbers and returned tensors only."""
        with _wrapping_forward(model, functools.partial(self._record, model)):
            yield

    @contextmanager
    def replaying(self, model: nn.Module) -> Iterator[None]:
        """Answer known calls in the block from the cache, once each."""
        with _wrapping_forward(model, functools.partial(self._replay, model)):
            yield

    def _record(self, model: nn.Module, forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        before = torch.get_rng_state()
        output = forward(**inputs)
        copied = _detached(output)
        size = _count_bytes(inputs) + _count_bytes(copied)
        repeatable = copied is not None and torch.equal(before, torch.get_rng_state())
        if repeatable and self.size + size <= LIMIT:
            self.calls.append((inputs, _other_hooks(model), copied))
            self.size += size
        return output

    def _replay(self, model: nn.Module, forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        hooks = _other_hooks(model)
        for index, (known, known_hooks, output) in enumerate(self.calls):
            if known_hooks == hooks and _equal(known, inputs):
                self.calls.pop(index)
                self.hits += 1
                _count_gates(model)
                return output
        return forward(**inputs)


def _other_hooks(model: nn.Module) -> frozenset[int]:
    """Return the handles of the hooks on the model's modules that are not the lens's; a handle is never given twice.

    The lens's own gates and counters leave a model's outputs as the masks have them.
    """
    return frozenset(
        handle
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for handle, hook in hooks.items()
        if not str(getattr(getattr(hook, "func", hook), "__module__", "")).startswith(_LENS)
    )


def _count_gates(model: nn.Module) -> None:
    """Count a call for every gate: the call that was recorded ran through them."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, GateHook):
                hook.calls += 1


@contextmanager
def _wrapping_forward(model: nn.Module, call: Callable[[Callable[..., Any], dict[str, Any]], Any]) -> Iterator[None]:
    """Route calls with keyword arguments alone through `call(forward, inputs)` in the block."""
    original, replaced = model.forward, model.__dict__.get("forward")

    @functools.wraps(original)
    def forward(*args: Any, **inputs: Any) -> Any:
        return original(*args, **inputs) if args else call(original, inputs)

    model.forward = forward
    try:
        yield
    finally:
        if replaced is None:
            del model.forward
        else:
            model.forward = replaced


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
        return both and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and isinstance(a, bool | int | float | str | None) and a == b


def _detached(output: Any) -> Any:
    """Return the output without its graph; None when it holds anything but tensors."""
    from transformers.utils import ModelOutput

    if isinstance(output, torch.Tensor):
        return output.detach()
    if isinstance(output, ModelOutput) or type(output) is dict:
        fields = {name: _detached(value) for name, value in output.items() if value is not None}
        return None if any(value is None for value in fields.values()) else type(output)(**fields)
    if type(output) in (list, tuple):
        parts = [_detached(value) for value in output]
        return None if any(part is None for part in parts) else type(output)(parts)
    return None


def _count_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_count_bytes, value.values()))
    return sum(map(_count_bytes, value)) if isinstance(value, list | tuple) else 0


class CachedMeasure(Generic[Scores]):
    """Metric and scores of a masked model, requested one after the other, from one pass where possible.

    Args:
        model: the model that is masked.
        measure: masks -> metric.
        score: masks -> scores, by one forward pass for each batch.
        scores_again: whether scores of every mask are wanted, or of the first only.
        gather: a value -> the values of all processes; all of them must request in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: Callable[[Masks], float],
        score: Callable[[Masks], Scores],
        scores_again: bool,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self.model, self._measure, self._score = model, measure, score
        self.scores_again, self.gather = scores_again, gather
        self.is_useful = True
        self.last: tuple[Masks, Scores, OutputCache] | None = None

    def score(self, masks: Masks) -> Scores:
        """Return the scores; outputs of the model are kept for `measure`."""
        if self.last is None or self.last[0] != masks:
            cache = OutputCache()
            with cache.recording(self.model):
                self.last = (masks, self._score(masks), cache)
        return self.last[1]

    def measure(self, masks: Masks) -> float:
        """Return the metric. Scores of the same masks are made first if they will be wanted."""
        if self.is_useful and (self.scores_again or not masks):
            self.score(masks)
        if self.last is None or self.last[0] != masks:
            return self._measure(masks)
        cache = self.last[2]
        with cache.replaying(self.model):
            metric = self._measure(masks)
        # Where the metric needs other runs of the model (generation, other batches), scoring first gains nothing.
        self.is_useful = any(self.gather(cache.hits > 0))
        cache.calls.clear()
        return metric
