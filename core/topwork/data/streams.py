"""Rows that come one by one from any iterable (a generator, a queue): nothing is known of them but the next, and they
may have no end. They are read once, while they are predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from topwork.errors import TopworkError
from topwork.items import Row

if TYPE_CHECKING:
    from topwork.task import Task


class RowStream:
    """Rows of an iterable, for prediction, with the task's column names and nothing else.

    Args:
        rows: dicts.
        columns: the task's column -> the rows' column; columns that are not named keep their name.

    Raises:
        TopworkError: while iterating, when a row is no dict, or the first one lacks a column that is needed.
    """

    def __init__(self, rows: Iterable[Row], task: type[Task], columns: Mapping[str, str]) -> None:
        self.rows, self.task, self.columns = rows, task, columns

    def __iter__(self) -> Iterator[Row]:
        from topwork.data.roles import canonical

        names = {name: self.columns.get(name, name) for name in self.task.columns}
        seen: list[str] = []
        for number, row in enumerate(self.rows):
            if not isinstance(row, Mapping):
                raise TopworkError(f"row {number} is {type(row).__name__}, not a dict", place="rows")
            if not number:
                canonical([row], self.task, self.columns, targets=False, place="rows")
            seen += [name for name, column in names.items() if column in row and name not in seen]
            yield {name: row.get(names[name]) for name in seen}  # what another row has and this one lacks is None


def endless(rows: Any) -> bool:
    """Whether rows are an iterable that is neither a data set nor a sequence."""
    dataset = hasattr(rows, "column_names") or hasattr(rows, "select_columns")
    return isinstance(rows, Iterable) and not dataset and not hasattr(rows, "__len__")
