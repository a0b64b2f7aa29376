"""View of rows before any model exists: what `topwork data` measures, renders and doubts.

A task sets `Task.rows_view` to a subclass of `RowsView`; the default shows the columns as text.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from topwork.items import Picture, Row


class RowsView:
    """Measures, previews and doubts of a task's rows; each method has a default that suits any task.

    Example:
        >>> class Lengths(RowsView):
        ...     def measure(self, row, options):
        ...         return {"words": float(len(row["text"].split()))}
    """

    def measure(self, row: Row, options: Any) -> Mapping[str, float]:
        """Return numbers of one row that are worth a distribution: {"width": 640.0, "height": 480.0}.

        Read headers, decode nothing. Default: nothing.
        """
        return {}

    def preview(self, row: Row, options: Any) -> Picture:
        """Render one row as the task reads it. Default: its columns as text."""
        return Picture(", ".join(f"{name}: {brief(value)}" for name, value in row.items() if value is not None))

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Return what looks wrong in rows of one role without being an error, one sentence each. Default: nothing."""
        return []


class _Brief(reprlib.Repr):
    """Values in a caption: the first entries of long ones, numbers with four digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring, self.maxother, self.maxlevel = 160, 60, 4

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.4g}"


def brief(value: Any) -> str:
    """Return a value as it stands in a caption: long ones cut, numbers with four digits.

    >>> brief(3.14159265)
    '3.142'
    """
    return _Brief().repr(value)
