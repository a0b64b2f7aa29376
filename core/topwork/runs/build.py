"""The task and its model: `build_task_model` from names and options, `make_task_model` from what was checked already.

The bases are loaded, the task learns from rows, and the task head is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.columns import canonical, row_count
from topwork.data.table import located
from topwork.data.values import rows_from
from topwork.errors import DataError, UsageError
from topwork.runs.records import stage_seed
from topwork.runs.task_model import TaskModel
from topwork.saving.parts import graft

if TYPE_CHECKING:
    from topwork.base import BaseOptions
    from topwork.plugins.registry import Plugins
    from topwork.task import State, Task

#: the seed of new weights is that of a stage which no recipe has
_WEIGHTS = 10**6


def build_task_model(
    task: str,
    base: Any,
    plugins: Plugins,
    *,
    rows: Any = None,
    bases: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    options: Mapping[str, Any] | None = None,
) -> TaskModel:
    """Put a task head on a base: `topwork.build`, with the plugins given.

    Args:
        task: name of the task.
        base: as of `topwork.build`.
        plugins: who is asked for tasks, bases and heads.
        rows: training rows, to learn from.
        bases: for tasks with several roles, one base per role.
        columns: the task's column -> the rows' column.
        seed: for the new weights.
        on_error: "skip" learns from the other rows when the task refuses some.
        options: those of the task.

    Raises:
        UsageError: an unknown task or base, or bases that do not suit the task.
        DataError: rows that the task cannot use.
    """
    from topwork.recipe.recipe import make_base_options, make_task_options

    task_class = plugins.task(task)
    if (base is None) == (bases is None):
        raise UsageError("give either `base` or `bases`", place="topwork.build")
    named: dict[str, Any] = dict(bases) if bases is not None else {task_class.roles[0]: base}
    if not task_class.fits(named):
        wanted = " or ".join(", ".join(roles) for roles in (task_class.roles, *task_class.alternatives))
        raise UsageError(f"task {task} has the roles {wanted}", place="topwork.build")
    made = {role: make_base_options(value) for role, value in named.items()}
    chosen = make_task_options(task, dict(options or {}), plugins)
    if rows is not None:
        rows = rows_from(rows, task_class, plugins)
        rows = canonical(rows, task_class, columns or {}, targets=True, location="rows")
    return make_task_model(task_class, made, chosen, rows, plugins, seed, on_error)


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
