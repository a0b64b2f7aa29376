"""A task with its model: `TaskParts`; and `graft`, which puts the task head on the base.

`topwork.TaskModel` is the same with methods to train, evaluate and predict; it lies in `runs`, whose stages it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from topwork.items import Json

if TYPE_CHECKING:
    from torch import nn

    from topwork.plugins.registry import Plugins
    from topwork.task import Task


class TaskParts:
    """A task and its model, as a saved folder holds them.

    Attributes:
        task: the Task, with its options and what it learned.
        model: the torch module.
        plugins: who brought the task, its bases and its head.
        form: "native", "generic" or "plugin": who made the task head.
        origins: of a loaded model, where its bases came from at first; None for a model that was just built.
    """

    def __init__(
        self, task: Task, model: nn.Module, plugins: Plugins, form: str, origins: Mapping[str, Json] | None = None
    ) -> None:
        self.task, self.model, self.plugins, self.form, self.origins = task, model, plugins, form, origins


def graft(task: Task, plugins: Plugins, *, weights: bool) -> tuple[nn.Module, str]:
    """Return the model of a task, base and task head, and its form: "plugin", "native" or "generic".

    Plugins are asked first (`build_head`), the task's own `build` comes last. Modules that bases defer (see
    `saving.deferred`) are finished on the way, and noted on the whole model.

    Args:
        task: with its bases, options and what it learned.
        plugins: who may bring the task head.
        weights: load the weights of the bases; False leaves random ones, which a saved model then replaces.
    """
    from transformers import PreTrainedModel

    from topwork.saving.deferred import finishing

    with finishing(task.bases.values(), plugins) as finished:
        model = plugins.hook.build_head(task=task, bases=task.bases, weights=weights)
        form = "plugin"
        if model is None:
            model = task.build(weights=weights)
            # a subclass that a task defines is no native class: plain transformers could not open what it saves
            native = isinstance(model, PreTrainedModel) and type(model).__module__.startswith("transformers")
            form = "native" if native else "generic"
    if finished:
        plugins.hook.model_saving(model=model)
    return model, form
