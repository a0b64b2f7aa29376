"""Numbers of rows that come one after another, by several processes: eight bytes a number.

Entry point: `RowTable`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy
from numpy.typing import NDArray


class RowTable:
    """A line of numbers for each row, in the order in which they come.

    Args:
        columns: how many numbers a line has.

    Example:
        >>> first, second = RowTable(1), RowTable(1)
        >>> first.add(2, [0.5])
        >>> second.add(1, [0.25])
        >>> RowTable.joined([first, second]).tolist()
        [[0.25], [0.5]]
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows, self.numbers = array("q"), array("d")

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int, numbers: Iterable[float]) -> None:
        """Add the numbers of a row."""
        self.rows.append(row)
        self.numbers.extend(numbers)

    def table(self) -> NDArray[numpy.float64]:
        """Return [rows, columns] in the order in which rows were added."""
        return numpy.array(self.numbers).reshape(len(self), self.columns)

    @staticmethod
    def joined(tables: Sequence[RowTable]) -> NDArray[numpy.float64]:
        """Return [rows, columns] of the tables of all processes, in the order of the rows."""
        filled = [table for table in tables if len(table)] or list(tables[:1])
        rows = numpy.concatenate([numpy.array(table.rows) for table in filled])
        return numpy.concatenate([table.table() for table in filled])[numpy.argsort(rows, kind="stable")]
