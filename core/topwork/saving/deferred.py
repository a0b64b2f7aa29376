"""Modules that a base makes in another shape than that of their weights: a plugin gives them that shape first.

Entry points: `DeferredModule` for bases, `finishing` for whoever builds.

A base that finds in a checkpoint what only a plugin can restore (removed attention heads, say) makes the module with
random weights and appends it, as `DeferredModule`, to its list `unfinished`. The hook `model_rebuilt` restores it at
once, and the weights are loaded: what the base then returns is finished, and a task may take it apart. The list exists
only while a task builds: at other times a base must refuse to make such a module, because nobody would finish it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topwork.errors import CheckpointError, PluginError
from topwork.items import Json
from topwork.saving.alterations import alterations

if TYPE_CHECKING:
    from torch import nn

    from topwork.plugins.registry import Plugins


@dataclass
class DeferredModule:
    """Module whose shape has to be restored before its weights can be loaded.

    Args:
        module: with random weights, in the shape that its config alone gives.
        section: name of what has to be put back; plugins that know it answer the hook `model_rebuilt`.
        value: what the checkpoint says about it (JSON).
        load: puts the checkpoint's weights into the module, strictly; None when they are to stay random.
        place: for messages.
        hint: what to do when no plugin puts it back.
    """

    module: nn.Module
    section: str
    value: Json
    load: Callable[[], None] | None
    place: str
    hint: str | None = None

    def finish(self, plugins: Plugins) -> None:
        """Restore the shape, then load the weights.

        Raises:
            PluginError: no plugin knows the section.
            CheckpointError: what the checkpoint says does not fit the model, or the weights do not.
        """
        model = self.module
        before = copy.deepcopy(alterations(model))
        plugins.hook.model_rebuilt(model=model, alterations={self.section: {"": self.value}}, plugins=plugins)
        if alterations(model) == before:
            raise PluginError(
                f"its config has `{self.section}`, and no loaded plugin can put that back",
                place=self.place,
                hint=self.hint or "load the plugin that knows it (see `topwork plugins`)",
            )
        if self.load is not None:
            self.load()


class FinishingList(list[DeferredModule]):
    """A list that finishes what is appended to it."""

    def __init__(self, plugins: Plugins) -> None:
        super().__init__()
        self.plugins = plugins

    def append(self, module: DeferredModule) -> None:
        """Finish a module; see `DeferredModule.finish`."""
        module.finish(self.plugins)
        super().append(module)


@contextmanager
def finishing(bases: Iterable[Any], plugins: Plugins) -> Iterator[FinishingList]:
    """Finish what bases defer while a task builds.

    Raises:
        CheckpointError: the task puts the weights of such a module into another one, which has not its shape.
    """
    finished = FinishingList(plugins)
    deferring = [base for base in bases if hasattr(base, "unfinished")]
    for base in deferring:
        base.unfinished = finished
    try:
        yield finished
    except RuntimeError as error:
        if not finished or not _raised_in(error, "load_state_dict"):
            raise
        raise CheckpointError(
            f"its config has `{finished[0].section}`, and the task takes the model apart: its weights do not fit what "
            f"the task makes of them ({' '.join(str(error).split())[:200]})",
            place=finished[0].place,
            hint="open it under a task that uses it whole, save that, and go on from the saved model",
        ) from error
    finally:
        for base in deferring:
            base.unfinished = None


def _raised_in(error: BaseException, function: str) -> bool:
    """Return whether a function of this name raised an error: torch has no class for weights that do not fit."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name == function
