"""The task and its model: `make_task_model` loads the bases, lets the task learn from rows, and adds the task head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.columns import row_count
from topwork.data.table import located
from topwork.errors import DataError
from topwork.runs.records import stage_seed
from topwork.runs.task_model import TaskModel
from topwork.saving.parts import graft

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
    """Let the task learn; with `on_error: skip` without the rows that it refuses, which the stages count.

    Raises:
        DataError: a row that the task refuses; the error says where the row was written.
    """
    kept = rows
    dropped: set[int] = set()
    while True:
        try:
            return task_class.learn(kept, bases, options)
        except DataError as error:
            bad = sorted({*error.rows, *([error.row] if error.row is not None else [])})
            if not bad or rows is None:
                raise
            indices = _remaining(rows, dropped)
            if on_error != "skip":
                raise located(rows, error, bad[0] if indices is None else indices[error.row or bad[0]]) from error
            dropped |= {index if indices is None else indices[index] for index in bad}
            kept = _without(rows, dropped)


def _remaining(rows: Any, dropped: set[int]) -> list[int] | None:
    """Return the indices of the rows that are left; None for a stream."""
    length = row_count(rows)
    return None if length is None else [index for index in range(length) if index not in dropped]


def _without(rows: Any, dropped: set[int]) -> Any:
    kept = _remaining(rows, dropped)
    if kept is None:
        return rows.filter(lambda _, index: index not in dropped, with_indices=True)
    return rows.select(kept) if hasattr(rows, "select") else [rows[index] for index in kept]
