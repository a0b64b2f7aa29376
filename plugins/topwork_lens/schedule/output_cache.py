"""Importance and metric from one pass: what the model answered while attention heads were scored need not be computed
again when the same rows are evaluated.

run_bertology takes both from one loop. Here they are two questions to a task, which may cut its rows in different ways;
so answers are given again only for calls whose tensors are equal, and everything else runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from topwork_lens.schedule.schedule import Masks

#: bytes of answers that are kept; what comes later is computed again
MOST = 64 * 2**20
Scores = TypeVar("Scores")


class Answers:
    """What a model in evaluation mode answered, by the tensors that it was called with.

    Attributes:
        given: how many calls were answered from memory.
    """

    def __init__(self) -> None:
        self.held = self.given = 0
        self.calls: list[tuple[dict[str, Any], Any]] = []

    @contextmanager
    def kept(self, model: nn.Module) -> Iterator[None]:
        """What the model answers inside is kept, if it drew no random numbers and holds tensors only."""
        with _around(model, self._keep):
            yield

    @contextmanager
    def repeated(self, model: nn.Module) -> Iterator[None]:
        """Calls that are known are answered from memory, once each."""
        with _around(model, self._repeat):
            yield

    def _keep(self, forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        before = torch.get_rng_state()
        answer = forward(**inputs)
        copied = _detached(answer)
        size = _bytes(inputs) + _bytes(copied)
        known = copied is not None and torch.equal(before, torch.get_rng_state())
        if known and self.held + size <= MOST:
            self.calls.append((inputs, copied))
            self.held += size
        return answer

    def _repeat(self, forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        for place, (asked, answer) in enumerate(self.calls):
            if _same(asked, inputs):
                self.calls.pop(place)
                self.given += 1
                return answer
        return forward(**inputs)


@contextmanager
def _around(model: nn.Module, call: Callable[[Callable[..., Any], dict[str, Any]], Any]) -> Iterator[None]:
    """`call` gets what the model is called with by name, and its forward; calls by position pass."""
    own = model.forward

    @functools.wraps(own)
    def forward(*args: Any, **inputs: Any) -> Any:
        ran: list[None] = []

        def run(*args: Any, **inputs: Any) -> Any:
            ran.append(None)
            return own(*args, **inputs)

        answer = run(*args, **inputs) if args else call(run, inputs)
        forward.from_memory = not ran  # type: ignore[attr-defined]
        return answer

    before = model.__dict__.get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        alike = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        return alike and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and isinstance(one, bool | int | float | str | None) and one == other


def _detached(answer: Any) -> Any:
    """The answer without its graph; None when it holds anything but tensors."""
    from transformers.utils import ModelOutput

    if isinstance(answer, torch.Tensor):
        return answer.detach()
    if isinstance(answer, ModelOutput) or type(answer) is dict:
        found = {name: _detached(value) for name, value in answer.items() if value is not None}
        return None if any(value is None for value in found.values()) else type(answer)(**found)
    if type(answer) in (list, tuple):
        parts = [_detached(value) for value in answer]
        return None if any(part is None for part in parts) else type(answer)(parts)
    return None


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


class Together(Generic[Scores]):
    """The metric and the scores of a masked model, asked for one after the other, from one pass where that is possible.

    Args:
        model: that is masked.
        measure: masks -> metric.
        score: masks -> scores, by one forward pass for each batch.
        again: whether scores are wanted of every mask, or of the first only.
        gather: every process's value: all must ask in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: Callable[[Masks], float],
        score: Callable[[Masks], Scores],
        again: bool,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self.model, self._measure, self._score = model, measure, score
        self.again, self.gather = again, gather
        self.worth = True
        self.last: tuple[Masks, Scores, Answers] | None = None

    def score(self, gone: Masks) -> Scores:
        """The scores; what the model answers is kept for `measure`."""
        if self.last is None or self.last[0] != gone:
            answers = Answers()
            with answers.kept(self.model):
                self.last = (gone, self._score(gone), answers)
        return self.last[1]

    def measure(self, gone: Masks) -> float:
        """The metric. The scores of the same masks are made first if they will be wanted."""
        if self.worth and (self.again or not gone):
            self.score(gone)
        if self.last is None or self.last[0] != gone:
            return self._measure(gone)
        answers = self.last[2]
        with answers.repeated(self.model):
            metric = self._measure(gone)
        # Where the metric needs other runs of the model (generation, other batches), nothing is won by scoring first.
        self.worth = any(self.gather(answers.given > 0))
        answers.calls.clear()
        return metric
