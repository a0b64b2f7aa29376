"""Runs of a module on the inputs that it had, of which only the part is computed that a question is about.

Entry point: `PartialRuns`. A change of one projection leaves what ran before it as it was, and what ran after a reader
is no concern of that reader. In a deep network this is a tenth of the time that whole runs take, or less.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from topwork_lens.blocks.trace import input_watch, is_reader
from topwork_lens.model_state import with_forward
from topwork_lens.pruning.equivalence import Replay, tensors


class _Enough(BaseException):
    """The end of a run whose rest is of no interest; no code of a model may catch it."""


@dataclass
class PartialRuns:
    """Runs of a module, whose parts give what they gave in the first run where nothing before them has changed.

    Parts are the outermost calls of the module's children; entries of lists and sequences stand for the list.

    Args:
        replay: the module and its inputs.
    """

    replay: Replay
    _outputs: list[Any] = field(default_factory=list)
    _first_part: dict[int, int] = field(default_factory=dict)
    _last_part: dict[int, int] = field(default_factory=dict)
    _calls: dict[int, int] = field(default_factory=dict)
    _inside: bool = False

    def __post_init__(self) -> None:
        with ExitStack() as stack:
            for module in {id(module): module for module in self.replay.module.modules() if is_reader(module)}.values():
                stack.callback(module.register_forward_pre_hook(self._count).remove)
            stack.enter_context(self._parts(self._remember))
            self.replay.all_outputs()

    def _count(self, module: nn.Module, _: Any) -> None:
        self._calls[id(module)] = self._calls.get(id(module), 0) + 1
        self._first_part.setdefault(id(module), len(self._outputs))
        self._last_part[id(module)] = len(self._outputs) if self._inside else -1

    def _remember(self, compute: Callable[[], Any]) -> Any:
        output = compute()
        self._outputs.append(copy.deepcopy(output))
        return output

    def inputs(self, consumer: nn.Module, changed: Sequence[nn.Module]) -> list[torch.Tensor]:
        """Return the inputs of a projection in all its calls.

        Args:
            consumer: the projection.
            changed: the projections whose parameters are, or will be, not those of the first run.
        """
        inputs, calls = list[torch.Tensor](), self._calls.get(id(consumer), 0)

        def enough(*_: Any) -> None:
            if len(inputs) == calls:
                raise _Enough

        with self._from(changed), ExitStack() as stack:
            stack.callback(input_watch(consumer, [], inputs).remove)
            stack.callback(consumer.register_forward_pre_hook(enough).remove)
            with suppress(_Enough):
                self.replay.all_outputs()
        return inputs

    def outputs(
        self, consumer: nn.Module, masked: Sequence[int], changed: Sequence[nn.Module], *, near: bool = False
    ) -> list[torch.Tensor]:
        """Return the outputs of the module with some features of a projection's input at 0.

        Args:
            consumer: the projection.
            masked: indices of features.
            changed: as of `inputs`.
            near: return those of the part that the projection is in instead, and compute no further.
        """
        last, outputs = self._last_part.get(id(consumer), -1) if near else -1, list[torch.Tensor]()

        def enough(index: int, output: Any) -> None:
            if index == last:
                outputs.extend(tensors(output))
                raise _Enough

        if near and last < 0:
            return outputs
        handle = input_watch(consumer, masked, [])
        try:
            with suppress(_Enough), self._from(changed, enough):
                outputs = self.replay.all_outputs()
        finally:
            handle.remove()
        return outputs

    @contextmanager
    def _from(
        self, changed: Sequence[nn.Module], after: Callable[[int, Any], None] = lambda *_: None
    ) -> Iterator[None]:
        """Give for all parts before the first of the changed projections what they gave, for the block.

        Args:
            changed: the projections.
            after: is called with the number of each part that is computed, and what it gave.
        """
        first = min((self._first_part.get(id(module), 0) for module in changed), default=0)
        numbers = itertools.count()

        def part(compute: Callable[[], Any]) -> Any:
            index = next(numbers)
            if index < first:
                return copy.deepcopy(self._outputs[index])
            output = compute()
            after(index, output)
            return output

        with self._parts(part):
            yield

    @contextmanager
    def _parts(self, through: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
        """Compute the parts through a function for the block."""

        def replaced(forward: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if self._inside:
                    return forward(*args, **kwargs)
                self._inside = True
                try:
                    return through(lambda: forward(*args, **kwargs))
                finally:
                    self._inside = False

            return call

        modules = {id(module): module for module in _parts_of(self.replay.module)}
        with ExitStack() as stack:
            for module in modules.values():
                stack.enter_context(with_forward(module, replaced(module.forward)))
            yield


def _parts_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of a module, and of its lists and sequences, but what is compiled to a graph."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            yield from _parts_of(child)
        if type(child).forward is not nn.Module.forward and not isinstance(child, torch.jit.ScriptModule):
            yield child
