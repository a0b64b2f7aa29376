"""A layout of files: its name, how it is recognised, how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork import DataError, Origin, Table

#: (line or None, row) of one example
Located = tuple[int | None, Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """A layout that data sets are found in.

    Args:
        name: as `format` in a recipe names it.
        matches: whether a file or folder has this layout beyond doubt; it must be quick.
        read: (path, options) -> tables by split.
        options: names of its options.
    """

    name: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Mapping[str, Any]], Mapping[str, Table]]
    options: tuple[str, ...] = ()


def table_of(
    examples: Sequence[Located],
    files: Sequence[Path] | Path,
    remark: str,
    names: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Make a table of examples.

    Args:
        examples: (line, row) of each example.
        files: the file that all examples come from, or the file of each.
        remark: how the files were read, for the log.
        names: of integers, by column.

    Raises:
        DataError: there are no examples.
    """
    import datasets
    import numpy as np

    if not examples:
        location = files if isinstance(files, Path) else files[0] if files else "the folder"
        raise DataError(f"{location}: has no rows", hint="check the path and `format`")
    columns = dict.fromkeys(name for _, row in examples for name in row)
    rows = datasets.Dataset.from_dict({name: [row.get(name) for _, row in examples] for name in columns})
    for name, classes in (names or {}).items():
        rows = rows.cast_column(name, datasets.ClassLabel(names=list(classes)))
    lines = None if any(line is None for line, _ in examples) else np.array([line for line, _ in examples])
    if isinstance(files, Path):
        return Table(rows, Origin((str(files),), lines=lines), remarks=[remark])
    known = {path: index for index, path in enumerate(dict.fromkeys(files))}
    counts = dict.fromkeys(known, 0)
    numbers = []
    for path in files:
        numbers.append(counts[path])
        counts[path] += 1
    origin = Origin(tuple(map(str, known)), np.array([known[path] for path in files]), np.array(numbers), lines)
    return Table(rows, origin, remarks=[remark])
