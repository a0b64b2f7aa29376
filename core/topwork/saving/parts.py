"""A task with its model: `TaskParts`; `graft`, which puts the task head on the base; `with_options` for a loaded task.

`topwork.TaskModel` is the same with methods to train, evaluate and predict; it lies in `runs`, whose stages it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from topwork.errors import UsageError
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


def with_options(task: Task, **changes: Any) -> Task:
    """Return the task with other values of some options; the task itself stays as it is.

    Args:
        task: with its bases, options and what it learned.
        changes: option -> value.

    Raises:
        UsageError: an option that the task does not have, or a value that the option cannot have.
    """
    options = type(task.options)
    if unknown := set(changes) - set(options.model_fields):
        raise UsageError(f"the task {task.name} has no option `{min(unknown)}`", place="task")
    try:
        changed = options.model_validate({**task.options.model_dump(by_alias=True), **changes})
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"], place=f"task.{'.'.join(changes)}") from error
    return type(task)(task.bases, changed, task.state)


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
