"""Columns of rows: from the columns that a source has to those of the task, with cells as the columns want them.

Entry points: `canonical` for rows in memory or read, `RowStream` for rows of any iterable, `chunks` to go through rows.
How cells become values stands in `cells`; rows are a `table.Table` or a `streams.Stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from topwork.data import cells, cuts
from topwork.data.names import declared_names, namer
from topwork.data.streams import Stream
from topwork.data.table import BesideTable, Table, read_many
from topwork.errors import DataError, TopworkError, listed, nearest
from topwork.items import Row

if TYPE_CHECKING:
    from topwork.task import Column, Task

#: how rows are given
ROWS_HINT = "give dicts by column, a DataFrame, a data set of `datasets`, or the path of a table"
#: rows that are fetched from a source together
_BLOCK = 256
#: the task's column -> the rows' column, or for labels the columns of which each is one label
ColumnNames = Mapping[str, "str | Sequence[str]"]


def canonical(
    rows: Any, task: type[Task], columns: ColumnNames, *, targets: bool, location: str, role: str | None = None
) -> Any:
    """Return the rows with the task's column names and nothing else, cells as the columns want them.

    Args:
        rows: a `datasets` dataset, a `Table` or a list of dicts.
        task: whose columns are wanted.
        columns: the task's column -> the rows' column; columns that are not named keep their name.
        targets: True when the target columns must be there too.
        location: of the rows, for errors: a key of the recipe, or "rows".
        role: of the rows in a run.

    Returns:
        a `Table`, or a `Stream` for a streaming data set. Integers that the source declares names for come as names.

    Raises:
        TopworkError: a column is missing; the error names those that exist.
    """
    table = rows if isinstance(rows, Table) else rows.table if isinstance(rows, Stream) else None
    inner = rows.rows if isinstance(rows, Table | Stream) else rows
    plain = check_plain(inner, location)
    if plain and not inner:
        return []
    present = column_names(inner)
    several = {name: list(origin) for name, origin in columns.items() if not isinstance(origin, str)}
    single = {name: origin for name, origin in columns.items() if isinstance(origin, str)}
    _check_mapping(task, columns, several, present, location)
    kept = _kept_columns(task, single, several, present, targets, location)
    if plain:
        made = [{name: row.get(origin) for name, origin in kept.items()} for row in inner]
        return _finished(made, table, task, several, role, inner, origins=kept)
    lazy = [name for name, column in task.columns.items() if column.lazy]
    dataset = _renamed(inner, kept, lazy, several)
    return _finished(dataset, table, task, several, role, inner, origins=kept)


def _check_mapping(
    task: type[Task], columns: ColumnNames, several: Mapping[str, Sequence[str]], present: list[str], location: str
) -> None:
    if unknown := sorted(set(columns) - set(task.columns)):
        raise TopworkError(
            f"`{unknown[0]}` is not a column of task {task.name}{nearest(unknown[0], task.columns)}",
            place="data.columns",
            hint=f"its columns are {', '.join(task.columns)}",
        )
    for name, origins in several.items():
        if task.columns[name].kind not in ("label", "labels"):
            raise TopworkError(f"`{name}` is one column, not several", place="data.columns", hint="name one column")
        for origin in origins:
            if origin not in present:
                raise TopworkError(
                    f"no column `{origin}` for the label `{origin}`{nearest(origin, present)}",
                    place=location,
                    hint=f"there are {listed(present, 24)}",
                )


def _kept_columns(
    task: type[Task],
    columns: Mapping[str, str],
    several: Collection[str],
    present: list[str],
    targets: bool,
    location: str,
) -> dict[str, str]:
    """Return the task's columns that the rows have: name -> the rows' column."""
    source = {name: columns.get(name, name) for name in task.columns if name not in several}
    for name, origin in source.items():
        column = task.columns[name]
        needed = name in columns or (column.required and (targets or not column.target))
        if needed and origin not in present:
            raise TopworkError(
                f"no column `{origin}` for the task's `{name}` ({column.description}){nearest(origin, present)}",
                place=location,
                hint=f"there are {_shown(present)}; map it with `data.columns: {{{name}: ...}}`",
            )
    kept = {name: origin for name, origin in source.items() if origin in present}
    if not kept and not several:
        raise TopworkError(
            f"no column fits: the task has {', '.join(task.columns)}; the rows have {_shown(present)}",
            place=location,
            hint=f"map one with `data.columns: {{{_plainest(task)}: ...}}`; a table without a header needs `names`",
        )
    return kept


def _shown(present: Sequence[str]) -> str:
    """Return the columns that rows have; a single one with signs in it may be several."""
    if len(present) == 1 and (sign := next((sign for sign in "^~: \u00a6\x1f" if sign in present[0].strip()), None)):
        return f"{present[0]} (if {sign!r} stands between columns: `options: {{sep: {sign!r}}}`)"
    return listed(present, 24)


def _plainest(task: type[Task]) -> str:
    """Return the task's column that is most easily mapped: of text, if it has one."""
    return next((name for name, column in task.columns.items() if column.kind == "text"), next(iter(task.columns)))


def _finished(
    rows: Any,
    table: Table | None,
    task: type[Task],
    several: Mapping[str, Sequence[str]],
    role: str | None,
    source: Any,
    origins: Mapping[str, str],
) -> Any:
    """Return the rows as a `Table` or a `Stream`, with the functions that turn cells into values."""
    features = getattr(rows, "features", None) or {}
    readers: dict[str, Callable[[Any], Any]] = {
        name: convert for name in origins if (convert := namer(features.get(name))) is not None
    }
    names = declared_names({name: features[name] for name in origins if name in features})
    if several:
        rows = _with_several(rows, source, several)
    for name, origin in origins.items():
        convert = None if table is None else _cell_reader(task.columns[name], name, origin, table, source)
        if convert is not None:
            readers[name] = convert
    if row_count(rows) is None:
        return Stream(rows, readers, names)
    origin_of_rows = table.origin if table is not None else None
    return Table(rows, origin_of_rows, readers=readers, names=names, role=role, written=bool(table and table.written))


def _cell_reader(column: Column, name: str, origin: str, table: Table, source: Any) -> Any:
    """Return the function that turns a cell of a table into its value.

    `source` are the rows with the table's own columns.
    """
    if column.kind in cells.FILES:
        beside = table.origin.files and row_count(source) is not None
        return BesideTable(cells.resolved, table.origin.folder) if beside else None
    if not table.written:
        return None
    once = column.kind in ("any", "label", "labels")  # decided for the column, so all its cells are read
    whole = source if row_count(source) is not None else table.rows
    return cells.reader(column, name, cuts.column_values(whole, origin) if once else None)


def _with_several(rows: Any, source: Any, several: Mapping[str, Sequence[str]]) -> Any:
    """Return the rows with lists of labels, made of columns of which each says whether the row has one label."""
    for name, origins in several.items():
        marks = [cuts.column_values(source, origin) or [] for origin in origins]
        labels = [
            [origin for origin, mark in zip(origins, row) if _is_set(mark, index, origin)]
            for index, row in enumerate(zip(*marks))
        ]
        if hasattr(rows, "add_column"):
            rows = rows.add_column(name, labels)
        else:
            rows = [{**row, name: entry} for row, entry in zip(rows, labels)]
    return rows


def _is_set(mark: Any, index: int, column: str) -> bool:
    value = cells.mark_of(mark)
    if value is None:
        raise DataError(f"{mark!r} is neither 0 nor 1", row=index, column=column, hint="mark labels with 1, others 0")
    return value


def check_plain(rows: Any, location: str) -> bool:
    """Return True for a list of dicts, False for a dataset of `datasets`.

    Raises:
        TopworkError: anything else.
    """
    if hasattr(rows, "select_columns"):
        return False
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise TopworkError(
            f"rows are a list of dicts or a dataset of `datasets`, not {type(rows).__name__}",
            place=location,
            hint=ROWS_HINT,
        )
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TopworkError(f"row {index} is {type(row).__name__}, not a dict", place=location, hint=ROWS_HINT)
    return True


def undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """Return the dataset with files of these columns as {"bytes", "path"}.

    The task opens them, so that a file that cannot be opened is a fault of its row and not of the whole data set.
    """
    features = getattr(dataset, "features", None) or {}
    for name in columns:
        if getattr(features.get(name), "decode", False):
            dataset = dataset.cast_column(name, replace(features[name], decode=False))
    return dataset


def _renamed(dataset: Any, kept: Mapping[str, str], lazy: Sequence[str] = (), several: Collection[str] = ()) -> Any:
    """Return a `datasets` dataset with the columns `kept` (new name -> old name)."""
    if len(set(kept.values())) < len(kept):
        raise TopworkError("two of the task's columns are mapped to one column", place="data.columns")
    dataset = undecoded(dataset.select_columns(list(kept.values())), [kept[name] for name in lazy if name in kept])
    moves = {origin: f"\0{name}" for name, origin in kept.items() if origin != name}
    if moves:  # by way of free names, so that columns can be swapped
        dataset = dataset.rename_columns(moves).rename_columns({new: new[1:] for new in moves.values()})
    return dataset


def column_names(rows: Any) -> list[str]:
    """Return the columns of a dataset or of a list of dicts; a streaming set may need its first row for that."""
    names = getattr(rows, "column_names", None)
    if names is not None:
        return list(names)
    if isinstance(rows, Sequence):  # a row may lack what another has
        return list(dict.fromkeys(name for row in rows for name in row))
    first = next(iter(rows), None)
    return list(first) if first is not None else []


def row_count(rows: Any) -> int | None:
    """Return the number of rows, or None for a stream."""
    return len(rows) if hasattr(rows, "__len__") else None


def chunks(
    rows: Any, size: int, index: int = 0, count: int = 1, start: int = 0
) -> Iterator[tuple[list[int], list[Row]]]:
    """Yield lists of `size` rows with their indices; process `index` of `count` gets every count-th row.

    Args:
        rows: with random access, or a stream.
        size: rows of a list.
        index: of the process.
        count: of processes.
        start: index of the first row that a stream gives.
    """
    indices: list[int] = []
    chunk: list[Row] = []
    length = row_count(rows)
    picked = enumerate(rows, start) if length is None else _in_blocks(rows, range(index, length, count))
    for position, row in picked:
        if length is None and position % count != index:
            continue
        indices.append(position)
        chunk.append(row)
        if len(chunk) == size:
            yield indices, chunk
            indices, chunk = [], []
    if chunk:
        yield indices, chunk


def _in_blocks(rows: Any, indices: range) -> Iterator[tuple[int, Row]]:
    """Yield (index, row), fetched some hundred at a time."""
    for start in range(0, len(indices), _BLOCK):
        block = indices[start : start + _BLOCK]
        for position, read in zip(block, read_many(rows, block)):
            yield position, read()


# ---------------------------------------------------------------- rows of an iterable


class RowStream:
    """Rows of an iterable, for prediction, with the task's column names and nothing else.

    Args:
        rows: dicts.
        columns: the task's column -> the rows' column; columns that are not named keep their name.

    Raises:
        TopworkError: while iterating, when a row is no dict, or the first one lacks a column that is needed.
    """

    def __init__(self, rows: Iterable[Row], task: type[Task], columns: Mapping[str, Any]) -> None:
        self.rows, self.task, self.columns = rows, task, columns

    def __iter__(self) -> Iterator[Row]:
        names = {name: self.columns.get(name, name) for name in self.task.columns}
        present: list[str] = []
        for index, row in enumerate(self.rows):
            if not isinstance(row, Mapping):
                raise TopworkError(f"row {index} is {type(row).__name__}, not a dict", place="rows")
            if not index:
                canonical([row], self.task, self.columns, targets=False, location="rows")
            present += [name for name, column in names.items() if column in row and name not in present]
            yield {name: row.get(names[name]) for name in present}  # a column that this row lacks is None


def is_endless(rows: Any) -> bool:
    """Return True for an iterable that is neither a data set nor a sequence."""
    dataset = hasattr(rows, "column_names") or hasattr(rows, "select_columns")
    return isinstance(rows, Iterable) and not dataset and not hasattr(rows, "__len__")
