"""Rows from plain values: a text, a list of texts or paths, a table in memory or in a file.

Entry point: `rows_from`. Only what cannot be misread becomes rows; the rest is left to `columns.canonical`, which says
what rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork import Plugins
    from topwork.task import Task

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def rows_from(value: Any, task: type[Task], plugins: Plugins) -> Any:
    """Return rows of a task from what a person hands to `predict`.

    - a dict is one row;
    - a text (of a task on files: a path) is one row of the task's only input, a list of them several rows;
    - the path of an existing table (csv, tsv, json, jsonl, parquet) is read;
    - a pandas DataFrame gives its rows, with None for missing values.

    Anything else is returned as it is.

    Raises:
        UsageError: a text, and the task has several inputs that it could be.
    """
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, str | Path):
        return _read(value, plugins) if _is_table(value) else [_row(value, task)]
    if isinstance(value, list | tuple) and value and all(isinstance(element, str | Path) for element in value):
        return [_row(element, task) for element in value]
    if hasattr(value, "itertuples") and hasattr(value, "to_dict"):
        records = value.to_dict("records")
        return [{str(name): None if _is_missing(cell) else cell for name, cell in row.items()} for row in records]
    return value


def _is_missing(cell: Any) -> bool:
    """Return whether a cell is NaN or pandas' NA or NaT, which no value equals."""
    try:
        return bool(cell != cell)
    except (TypeError, ValueError):  # NA has no truth value, nor have arrays
        return type(cell).__name__ == "NAType"


def _is_table(value: str | Path) -> bool:
    try:
        return Path(value).suffix.lower() in _TABLES and Path(value).is_file()
    except OSError:  # a text longer than a file name
        return False


def _read(path: str | Path, plugins: Plugins) -> Any:
    from topwork.data.options import RowsOptions

    return plugins.load_rows(RowsOptions(path=str(path)))


def _row(value: str | Path, task: type[Task]) -> dict[str, Any]:
    inputs = {name: column for name, column in task.columns.items() if not column.target}
    required = [name for name, column in inputs.items() if column.required]
    candidates = required or [name for name, column in inputs.items() if column.kind == "text"]
    if len(candidates) == 1 and (inputs[candidates[0]].lazy or isinstance(value, str)):
        return {candidates[0]: str(value)}
    example = ", ".join(f"{name!r}: ..." for name in required or list(inputs)[:1])
    raise UsageError(
        f"{task.name} has the inputs {', '.join(inputs)}: {str(value)[:60]!r} could be any of them",
        hint=f"give dicts: {{{example}}}",
    )
