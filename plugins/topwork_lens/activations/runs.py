"""Watch over changes of a block: whether each was in force where its part of the model ran, in backward passes too.

Entry points: `Runs` and `checkpointing`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from topwork_lens.activations.hooks import Hook
from topwork_lens.layers.context import module_at
from topwork_lens.model_state import remembering
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope

_CHECKPOINT = "torch/utils/checkpoint.py"
#: functions of it that run a part again
_AGAIN = ("backward", "recompute_fn", "unpack_hook")


def checkpointing(depth: int = 2) -> int:
    """Return 1 in the forward pass of gradient checkpointing, -1 where its backward pass runs a layer again, else 0.

    Where checkpointed parts lie in one another, the backward pass of the outer one runs the forward pass of the inner
    one again: that is neither.
    """
    frame: FrameType | None = sys._getframe(depth)
    forward = False
    while frame is not None:
        if frame.f_code.co_filename.endswith(_CHECKPOINT):
            if frame.f_code.co_name in _AGAIN:
                return 0 if forward else -1
            forward = True
        frame = frame.f_back
    return int(forward)


class Change(Protocol):
    """Count of how often a change was made.

    Args:
        calls: how often.
        pending: calls by gradient checkpointing whose backward pass has not run the part again.
    """

    calls: int
    pending: int


class Runs:
    """Record of what ran while changes were on: the model, its parts, and whether gradients were wanted.

    Args:
        model: the model.
        paths: of the changed parts -> of the modules whose runs show that a part runs.
        scope: where the changes are in force.
        stack: closed at the end of the block.
        what: what the changes are, for messages: "gates".
        missed: what did not happen where a part ran without its change.
    """

    def __init__(
        self,
        model: nn.Module,
        paths: Mapping[str, str],
        scope: Scope,
        stack: ExitStack,
        what: str = "gates",
        missed: str = "the model ran, but the output projection under the gate did not",
    ) -> None:
        self.scope, self.parts, self.elsewhere, self.wanted = scope, 0, 0, False
        self.what, self.missed = what, missed
        self.ran: set[str] = set()
        stack.enter_context(remembering(model))
        # Parts, not the model itself: where its outputs are given out of a cache, nothing runs.
        for part in [*model.children()] or [model]:
            stack.callback(part.register_forward_hook(self._part).remove)
        stack.callback(model.register_forward_hook(self._output).remove)
        for path, watched in paths.items():
            for module in module_at(model, watched).modules():
                stack.callback(module.register_forward_pre_hook(Hook(scope, self._inside(path))).remove)

    def _part(self, *_: Any) -> None:
        if self.scope.active:
            self.parts += 1
        else:
            self.elsewhere += 1

    def _inside(self, path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.ran.add(path)

        return hook

    def _output(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.scope.active:
            return
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else [output]
        self.wanted |= any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)

    def check(self, changes: Mapping[str, Change]) -> None:
        """Refuse changes that were not in force where their part of the model ran.

        Args:
            changes: by path.

        Raises:
            Refused: a part ran without its change, or its backward pass would.
        """
        for path, change in changes.items():
            if change.pending > 0 and self.wanted:
                cause = (
                    f"gradient checkpointing ran this layer, and its backward pass would run it without the {self.what}"
                )
                hint = "call backward inside the block, or run the model under torch.no_grad()"
                raise refuse("no_gradient", cause, place=path, hint=hint)
            if change.calls:
                continue
            if path in self.ran:
                raise refuse("not_run", self.missed, place=path)
            if self.parts:
                warnings.warn(f"{path} did not run in this block: its {self.what} changed nothing", stacklevel=5)
            elif self.elsewhere:
                cause = f"the model ran in another thread, where these {self.what} are not in force"
                hint = "start the thread with contextvars.copy_context().run"
                raise refuse("not_run", cause, place=path, hint=hint)
