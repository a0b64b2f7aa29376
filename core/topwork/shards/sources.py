"""Sources of rows as one sequence, from which shards are taken: `Sources`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork.data.columns import canonical, row_count
from topwork.data.table import Table
from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork.task import Task


class Sources:
    """Rows of one source behind the other, with the task's columns.

    Args:
        sources: rows as `load_rows` gives them.
        task: whose columns are wanted.
        columns: the task's column -> the rows' column.
        targets: whether the target columns are needed.

    Raises:
        UsageError: a source whose rows come one by one.
    """

    def __init__(self, sources: Sequence[Any], task: type[Task], columns: Mapping[str, str], *, targets: bool) -> None:
        self.tables: list[Table] = []
        for source in sources:
            if row_count(source) is None:
                cause = "rows that are streamed cannot be divided: their number is not known"
                raise UsageError(cause, place="rows", hint="give files")
            rows = canonical(source, task, columns, targets=targets, location="rows")
            self.tables.append(rows if isinstance(rows, Table) else Table(rows))

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def at(self, indices: Sequence[int]) -> list[Table]:
        """Return the rows with these indices, in the order of the rows, of each source that has some."""
        import numpy

        chosen, offset = numpy.sort(numpy.asarray(indices, dtype=numpy.int64)), 0
        tables = []
        for table in self.tables:
            inside = chosen[(chosen >= offset) & (chosen < offset + len(table))] - offset
            if len(inside):
                tables.append(table.mapped_anew().select(inside))
            offset += len(table)
        return tables

    def between(self, start: int, stop: int) -> Iterator[tuple[int, Table]]:
        """Yield the rows with these indices, as (index of the first, rows) of each source that has some."""
        offset = 0
        for table in self.tables:
            first, last = max(start - offset, 0), min(stop - offset, len(table))
            if first < last:
                yield offset + first, table.mapped_anew().select(range(first, last))
            offset += len(table)
