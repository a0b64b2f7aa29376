"""Rows from plain values: a text, an image, a clip, a list of them, a table in memory or in a file.

Entry point: `rows_from`. Only what cannot be misread becomes rows; the rest is left to `columns.canonical`, which says
what rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.columns import ROWS_HINT
from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork import Plugins
    from topwork.task import Task

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
#: keys of an image or clip as `datasets` gives it
_MEDIA = {"array", "sampling_rate", "bytes", "path"}


def rows_from(value: Any, task: type[Task], plugins: Plugins) -> Any:
    """Return rows of a task from what a person hands to it.

    - a dict is one row;
    - a text (of a task on files: a path) is one row of the task's only input, a list of them several rows;
    - the path of an existing table (csv, tsv, json, jsonl, parquet) is read, and so is a folder for a task on files;
    - an image (of PIL, or an array) or a clip (an array, or {"array", "sampling_rate"}) is one row of the only input of
      a task on files, a list of them several rows;
    - a pandas DataFrame gives its rows, with None for missing values; a Series is a list.

    Data sets of `datasets`, lists of dicts and what yields rows are returned as they are.

    Raises:
        UsageError: a value of another kind, one that several inputs of the task could be, or a table that is not there.
    """
    if isinstance(value, Mapping):
        return [_media_row(value, task)] if _is_media(value) and not set(value) & set(task.columns) else [value]
    if isinstance(value, str | Path):
        return _read(value, plugins) if _is_table(value, task) else [_row(value, task)]
    if _is_series(value):
        return rows_from(value.tolist(), task, plugins)
    if _is_media(value):
        return [_media_row(value, task)]
    if isinstance(value, list | tuple) and value:
        if all(isinstance(element, str | Path) for element in value):
            return [_row(element, task) for element in value]
        if all(_is_media(element) and not _names_column(element, task) for element in value):
            return [_media_row(element, task) for element in value]
    if hasattr(value, "itertuples") and hasattr(value, "to_dict"):
        records = value.to_dict("records")
        return [{str(name): None if _is_missing(cell) else cell for name, cell in row.items()} for row in records]
    if isinstance(value, bool | int | float | complex | set | frozenset):
        raise UsageError(f"{value!r} ({type(value).__name__}) are no rows of {task.name}"[:200], hint=ROWS_HINT)
    return value


def _is_series(value: Any) -> bool:
    """Return whether a value is a pandas Series, or an array of texts."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return hasattr(value, "to_frame") or (hasattr(value, "__array_interface__") and kind in ("U", "O"))


def _is_media(value: Any) -> bool:
    """Return whether a value is an image or a clip in memory: of PIL, an array, a tensor, or as `datasets` gives it."""
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= _MEDIA
    if isinstance(value, bytes | bytearray):
        return True
    return hasattr(value, "__array_interface__") or (hasattr(value, "__array__") and not hasattr(value, "columns"))


def _names_column(value: Any, task: type[Task]) -> bool:
    return isinstance(value, Mapping) and bool(set(value) & set(task.columns))


def _media_row(value: Any, task: type[Task]) -> dict[str, Any]:
    inputs = {name: column for name, column in task.columns.items() if not column.target and column.required}
    if len(inputs) == 1 and next(iter(inputs.values())).lazy:
        return {next(iter(inputs)): value}
    names = ", ".join(name for name, column in task.columns.items() if not column.target)
    raise UsageError(
        f"{task.name} has the inputs {names}, and this is an image, a clip or an array ({type(value).__name__})",
        hint=ROWS_HINT,
    )


def _is_missing(cell: Any) -> bool:
    """Return whether a cell is NaN or pandas' NA or NaT, which no value equals."""
    try:
        return bool(cell != cell)
    except (TypeError, ValueError):  # NA has no truth value, nor have arrays
        return type(cell).__name__ == "NAType"


def _is_table(value: str | Path, task: type[Task]) -> bool:
    """Return whether a text is the path of a table, or of a folder for a task on files.

    Raises:
        UsageError: it can be nothing but the path of a table, and there is no such file.
    """
    try:
        path = Path(value)
        if path.suffix.lower() in _TABLES and path.is_file():
            return True
        on_files = any(column.lazy for column in task.columns.values() if not column.target)
        if on_files and str(value) and path.is_dir():
            return True
    except (OSError, ValueError):  # a text longer than a file name, or with a zero character
        return False
    if path.suffix.lower() in _TABLES and not any(letter.isspace() for letter in str(value)):
        raise UsageError(f"there is no file {value}", hint="correct the path; a text is a row in a dict: {'text': ...}")
    return False


def _read(path: str | Path, plugins: Plugins) -> Any:
    from topwork.data.options import RowsOptions

    return plugins.load_rows(RowsOptions(path=str(path)))


def single_input(task: Task | type[Task]) -> str | None:
    """Return the input that a text or a file without a column's name is; None where it could be several.

    That is the only required one, else the one that the task says (`Column.single`), else the only text.
    """
    inputs = {name: column for name, column in task.columns.items() if not column.target}
    required = [name for name, column in inputs.items() if column.required]
    single = [name for name, column in inputs.items() if column.single]
    texts = [name for name, column in inputs.items() if column.kind == "text"]
    candidates = required or single or texts
    return candidates[0] if len(candidates) == 1 else None


def _row(value: str | Path, task: type[Task]) -> dict[str, Any]:
    inputs = {name: column for name, column in task.columns.items() if not column.target}
    name = single_input(task)
    if name is not None and (inputs[name].lazy or isinstance(value, str)):
        if inputs[name].lazy and not str(value):
            raise UsageError(f"the path of `{name}` is empty", hint=ROWS_HINT)
        return {name: str(value)}
    required = [name for name, column in inputs.items() if column.required]
    example = ", ".join(f"{name!r}: ..." for name in required or list(inputs)[:1])
    raise UsageError(
        f"{task.name} has the inputs {', '.join(inputs)}: {str(value)[:60]!r} could be any of them",
        hint=f"give dicts: {{{example}}}",
    )
