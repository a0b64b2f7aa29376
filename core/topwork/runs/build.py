"""The task and its model: `make_task_model` loads the bases, lets the task learn from rows, and adds the task head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.roles import row_count
from topwork.errors import DataError
from topwork.runs.records import stage_seed
from topwork.task_model import TaskModel, graft

if TYPE_CHECKING:
    from topwork.base import BaseOptions
    from topwork.plugins.registry import Plugins
    from topwork.task import State, Task

#: the seed of new weights is that of a stage which no recipe has
_WEIGHTS = 10**6


def make_task_model(
    task_class: type[Task],
    bases: Mapping[str, BaseOptions],
    options: Any,
    rows: Any,
    plugins: Plugins,
    seed: int,
    on_error: Literal["raise", "skip"] = "raise",
) -> TaskModel:
    """Load the bases, let the task learn from the rows, and put the task head on.

    Args:
        task_class: the task.
        bases: options of the bases, by role.
        options: those of the task.
        rows: training rows with canonical columns, or None.
        plugins: who is asked for bases and heads.
        seed: for the new weights.
        on_error: "skip" learns from the other rows when the task refuses some.
    """
    from transformers import set_seed

    loaded = {role: plugins.load_base(options) for role, options in bases.items()}
    state = _learn(task_class, rows, loaded, options, on_error)
    task = task_class(loaded, options, state)
    set_seed(stage_seed(seed, _WEIGHTS))
    model, form = graft(task, plugins, weights=True)
    model.eval()
    return TaskModel(task, model, plugins, form)


def _learn(task_class: type[Task], rows: Any, bases: Mapping[str, Any], options: Any, on_error: str) -> State:
    """Let the task learn; with `on_error: skip` without the rows that it refuses, which the stages count."""
    while True:
        try:
            return task_class.learn(rows, bases, options)
        except DataError as error:
            if on_error != "skip" or error.row is None:
                raise
            rows = _without(rows, error.row)


def _without(rows: Any, index: int) -> Any:
    length = row_count(rows)
    if length is None:
        return rows.filter(lambda _, position: position != index, with_indices=True)
    kept = [position for position in range(length) if position != index]
    return rows.select(kept) if hasattr(rows, "select") else [rows[position] for position in kept]
