"""Modules that a base makes in another shape than that of their weights: a plugin gives them that shape first.

A base that finds in a checkpoint what only a plugin can put back (attention heads that are gone, say) makes the module
with random weights and notes it in its list `unfinished`. When the task has built its model, the hook `model_rebuilt`
is asked to put it back, and the weights are loaded. The list is there only while a task builds: at other times a base
must refuse to make such a module, because nobody would finish it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topwork.altering import alterations
from topwork.errors import CheckpointError, PluginError
from topwork.items import Json

if TYPE_CHECKING:
    from torch import nn

    from topwork.plugins import Plugins


@dataclass
class Unfinished:
    """A module whose shape has to be put back before its weights can come.

    Args:
        module: with random weights, in the shape that its config alone gives.
        section: name of what has to be put back; plugins that know it answer the hook `model_rebuilt`.
        value: what the checkpoint says about it (JSON).
        load: puts the checkpoint's weights into the module, strictly; None when they are to stay random.
        place: for messages.
        mend: what to do when no plugin puts it back.
    """

    module: nn.Module
    section: str
    value: Json
    load: Callable[[], None] | None
    place: str
    mend: str | None = None

    def finish(self, model: nn.Module, path: str, plugins: Plugins) -> None:
        """Put back its shape, then load its weights.

        Raises:
            PluginError: no plugin knows the section.
            CheckpointError: what the checkpoint says does not fit the model, or the weights do not.
        """
        before = copy.deepcopy(alterations(model))
        plugins.hook.model_rebuilt(model=model, alterations={self.section: {path: self.value}}, plugins=plugins)
        if alterations(model) == before:
            raise PluginError(
                f"its config has `{self.section}`, and no loaded plugin can put that back",
                place=self.place,
                mend=self.mend or "load the plugin that knows it (see `topwork plugins`)",
            )
        if self.load is not None:
            self.load()


@contextmanager
def noting(bases: Iterable[Any]) -> Iterator[list[Unfinished]]:
    """While a task builds: after the block the list has what its bases left unfinished."""
    found: list[Unfinished] = []
    able = [base for base in bases if hasattr(base, "unfinished")]
    for base in able:
        base.unfinished = found
    try:
        yield found
    finally:
        for base in able:
            base.unfinished = None


def finish_all(model: nn.Module, waiting: Sequence[Unfinished], plugins: Plugins) -> None:
    """Finish every module that was waiting; all of them must be part of the model as they were made.

    Raises:
        CheckpointError: the task uses a part of such a module only, or has copied its weights before they were there.
    """
    paths = {id(module): path for path, module in model.named_modules()} if waiting else {}
    for one in waiting:
        if id(one.module) not in paths:
            raise CheckpointError(
                f"its config has `{one.section}`, and the task takes the model apart: its weights cannot be put back",
                place=one.place,
                mend="open it under a task that uses it whole, save that, and go on from the saved model",
            )
        one.finish(model, paths[id(one.module)], plugins)
