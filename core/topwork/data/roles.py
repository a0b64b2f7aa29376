"""Roles of rows (train, calibrate, evaluate, predict): how they are read, cut and brought into the task's columns.

Entry points: `Roles` for a run, `canonical` for rows in memory. Where rows come from is the business of plugins
(`load_rows`); which rows a cut takes stands in `cuts`, how cells become values in `cells`, rows themselves are a
`table.Table` or a `streams.Stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from topwork.data import cells, cuts
from topwork.data.options import CutOptions, DataOptions, RowsOptions
from topwork.data.streams import Stream
from topwork.data.table import BesideTable, Table, declared_names, namer
from topwork.errors import DataError, TopworkError, nearest
from topwork.items import Row

if TYPE_CHECKING:
    from topwork import Plugins
    from topwork.task import Column, Task

#: the task's column -> the rows' column, or for labels the columns of which each is one label
ColumnNames = Mapping[str, "str | Sequence[str]"]

# ---------------------------------------------------------------- canonical columns


def canonical(
    rows: Any, task: type[Task], columns: ColumnNames, *, targets: bool, place: str, role: str | None = None
) -> Any:
    """Return the rows with the task's column names and nothing else, cells as the columns want them.

    Args:
        rows: a `datasets` dataset, a `Table` or a list of dicts.
        columns: the task's column -> the rows' column; columns that are not named keep their name.
        targets: True when the target columns must be there too.
        place: location for errors.
        role: of the rows in a run.

    Returns:
        a `Table`, or a `Stream` for a streaming data set. Integers that the source declares names for come as names.

    Raises:
        TopworkError: a column is missing; the error names those that exist.
    """
    table = rows if isinstance(rows, Table) else None
    inner = table.rows if table is not None else rows
    plain = _are_plain(inner, place)
    if plain and not inner:
        return []
    present = column_names(inner)
    several = {name: list(origin) for name, origin in columns.items() if not isinstance(origin, str)}
    single = {name: origin for name, origin in columns.items() if isinstance(origin, str)}
    _check_mapping(task, columns, several, present, place)
    kept = _kept_columns(task, single, several, present, targets, place)
    if plain:
        made = [{name: row.get(origin) for name, origin in kept.items()} for row in inner]
        return _finished(made, table, task, several, role, inner, origins=kept)
    lazy = [name for name, column in task.columns.items() if column.lazy]
    dataset = _renamed(inner, kept, lazy, several)
    return _finished(dataset, table, task, several, role, inner, origins=kept)


def _check_mapping(
    task: type[Task], columns: ColumnNames, several: Mapping[str, Sequence[str]], present: list[str], place: str
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
                    place=place,
                    hint=f"there are {', '.join(present) or 'none'}",
                )


def _kept_columns(
    task: type[Task],
    columns: Mapping[str, str],
    several: Collection[str],
    present: list[str],
    targets: bool,
    place: str,
) -> dict[str, str]:
    """The task's columns that the rows have -> the rows' column."""
    source = {name: columns.get(name, name) for name in task.columns if name not in several}
    for name, origin in source.items():
        column = task.columns[name]
        needed = name in columns or (column.required and (targets or not column.target))
        if needed and origin not in present:
            raise TopworkError(
                f"no column `{origin}` for the task's `{name}` ({column.description}){nearest(origin, present)}",
                place=place,
                hint=f"there are {', '.join(present) or 'none'}; map it with `data.columns: {{{name}: ...}}`",
            )
    kept = {name: origin for name, origin in source.items() if origin in present}
    if not kept and not several:
        raise TopworkError(
            f"no column fits: the task has {', '.join(task.columns)}; the rows have {', '.join(present) or 'none'}",
            place=place,
            hint=f"map one with `data.columns: {{{next(iter(task.columns))}: ...}}`",
        )
    return kept


def _finished(
    rows: Any,
    table: Table | None,
    task: type[Task],
    several: Mapping[str, Sequence[str]],
    role: str | None,
    source: Any,
    origins: Mapping[str, str],
) -> Any:
    """The rows as a `Table` or a `Stream`, with what turns cells into values."""
    features = getattr(rows, "features", None) or {}
    readers: dict[str, Callable[[Any], Any]] = {
        name: convert for name in origins if (convert := namer(features.get(name))) is not None
    }
    names = declared_names({name: features[name] for name in origins if name in features})
    if several:
        rows = _with_several(rows, source, several)
    if row_count(rows) is None:
        return Stream(rows, readers, names)
    written = table is not None and table.written
    for name, column in task.columns.items():
        if name in origins and table is not None:
            convert = _cell_reader(column, name, rows if written else None, table)
            if convert is not None:
                readers[name] = convert
    origin = table.origin if table is not None else None
    return Table(rows, origin, readers=readers, names=names, role=role, written=written)


def _cell_reader(column: Column, name: str, written: Any, table: Table) -> Any:
    if column.kind in cells.FILES:
        return BesideTable(cells.resolved) if table.origin.files else None
    if written is None:
        return None
    once = column.kind in ("any", "label", "labels")  # decided for the column, so all its cells are read
    return cells.reader(column, name, cuts.column_values(written, name) if once else None)


def _with_several(rows: Any, source: Any, several: Mapping[str, Sequence[str]]) -> Any:
    """The rows with lists of labels made of columns of which each says whether the row has one label."""
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


_SET = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False, "": False}


def _is_set(mark: Any, index: int, column: str) -> bool:
    value = _SET.get("" if mark is None else str(mark).strip().lower())
    if value is None:
        raise DataError(f"{mark!r} is neither 0 nor 1", row=index, column=column, hint="mark labels with 1, others 0")
    return value


def _are_plain(rows: Any, place: str) -> bool:
    """Whether rows are a list of dicts; False for a dataset of `datasets`. Anything else is refused."""
    if hasattr(rows, "select_columns"):
        return False
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise TopworkError(
            f"rows are a list of dicts or a dataset of `datasets`, not {type(rows).__name__}", place=place
        )
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TopworkError(f"row {index} is {type(row).__name__}, not a dict", place=place)
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
    """A `datasets` dataset with the columns `kept` (new name -> old name)."""
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


def chunks(rows: Any, size: int, index: int = 0, count: int = 1) -> Iterator[tuple[list[int], list[Row]]]:
    """Yield lists of `size` rows with their indices; process `index` of `count` gets every count-th row."""
    indices: list[int] = []
    chunk: list[Row] = []
    length = row_count(rows)
    picked = (
        enumerate(rows) if length is None else ((position, rows[position]) for position in range(index, length, count))
    )
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
                canonical([row], self.task, self.columns, targets=False, place="rows")
            present += [name for name, column in names.items() if column in row and name not in present]
            yield {name: row.get(names[name]) for name in present}  # a column that this row lacks is None


def is_endless(rows: Any) -> bool:
    """Return True for an iterable that is neither a data set nor a sequence."""
    dataset = hasattr(rows, "column_names") or hasattr(rows, "select_columns")
    return isinstance(rows, Iterable) and not dataset and not hasattr(rows, "__len__")


# ---------------------------------------------------------------- roles


class Roles:
    """The rows of a run by role, loaded when first asked for.

    Args:
        data: what the recipe says, or None with `given`.
        given: rows in memory, by role (the Python API).
        wanted: roles that will be asked for: calibration rows are cut from the training rows only if somebody wants
            them.
    """

    def __init__(
        self,
        task: type[Task],
        plugins: Plugins,
        data: DataOptions | None = None,
        given: Mapping[str, Any] | None = None,
        seed: int = 0,
        wanted: Collection[str] = (),
    ) -> None:
        self.task, self.plugins, self.seed, self.wanted = task, plugins, seed, set(wanted)
        self.data = data or DataOptions()
        self._raw: dict[str, Any] = {role: rows for role, rows in (given or {}).items() if rows is not None}
        self._named: dict[str, Any] = {}
        self._cut_done = False
        self.notes: list[str] = []

    def has(self, role: str) -> bool:
        """Whether there are rows for the role (calibration rows can always be cut from training rows)."""
        known = role in self._raw or getattr(self.data, role, None) is not None
        return known or (role == "calibrate" and self.has("train"))

    def __call__(self, role: str) -> Any:
        """The rows of a role with canonical columns."""
        if role not in self._named:
            rows = self._load(role)
            targets = role != "predict"
            self._named[role] = canonical(
                rows, self.task, self.data.columns, targets=targets, place=f"data.{role}", role=role
            )
            if row_count(self._named[role]) == 0:
                raise TopworkError("there are no rows", place=f"data.{role}")
        return self._named[role]

    def loaded(self, roles: Sequence[str], most: int) -> list[Row]:
        """Return the first rows of the first of these roles that was read already; none of streaming rows."""
        for role in roles:
            rows = self._named.get(role)
            if rows is not None and row_count(rows) is not None:
                return [rows[index] for index in range(min(most, len(rows)))]
        return []

    def _load(self, role: str) -> Any:
        if role in self._raw and role != "train":
            return self._raw[role]
        options = getattr(self.data, role, None)
        if isinstance(options, RowsOptions) and role != "train":
            return self._read(options, role)
        if not self.has(role):
            raise TopworkError(f"the recipe has no {role} rows", place="data", hint=f"add `data.{role}`")
        if role == "evaluate" and options is None:
            raise TopworkError("the recipe has no evaluate rows", place="data", hint="add `data.evaluate`")
        if not self._cut_done:
            self.wanted.add(role)
            self._cut()
        if role not in self._raw:
            raise TopworkError(
                f"the {role} rows were not set apart from the training rows in time", place=f"data.{role}"
            )
        return self._raw[role]

    def _read(self, options: RowsOptions, role: str) -> Any:
        try:
            rows = self.plugins.load_rows(options)
        except TopworkError as error:
            error.place = error.place or f"data.{role}"
            raise
        if row_count(rows) is not None:
            rows = rows if isinstance(rows, Table) else Table(rows)
            self.notes += [f"{role}: {note}" for note in rows.remarks]
        if options.shuffle:
            rows = rows.shuffle(seed=self.seed)
        if options.limit is not None:
            rows = (
                rows.take(options.limit)
                if row_count(rows) is None
                else rows.select(range(min(options.limit, len(rows))))
            )
        return rows

    def _cut(self) -> None:
        """Read the training rows and cut from them what the other roles want."""
        rows = self._raw["train"] if "train" in self._raw else self._read(self._train_options(), "train")
        if row_count(rows) is not None and not isinstance(rows, Table):
            _are_plain(rows, "data.train")
            rows = Table(rows)
        for role in ("evaluate", "calibrate"):
            options = getattr(self.data, role)
            if role in self._raw or isinstance(options, RowsOptions):
                continue
            if options is None and (role == "evaluate" or role not in self.wanted):
                continue
            rows, self._raw[role] = self._split(rows, options, role)
        self._raw["train"] = rows
        self._cut_done = True

    def _train_options(self) -> RowsOptions:
        if self.data.train is None:
            raise TopworkError("the recipe has no training rows", place="data", hint="add `data.train`")
        return self.data.train

    def _split(self, rows: Any, options: CutOptions | None, role: str) -> tuple[Any, Any]:
        """(the rest, the rows of the role)"""
        import numpy as np

        cut, by = (options.size, options.by) if options else (None, None)
        total = row_count(rows)
        if total is None:
            if not isinstance(cut, int) or by is not None:
                raise TopworkError(
                    f"{role} rows can be cut from streaming rows by number only",
                    place=f"data.{role}",
                    hint="write `cut: 1000`",
                )
            return rows.skip(cut), rows.take(cut)
        size = cut if isinstance(cut, int) else round(total * cut) if cut else min(1000, max(1, total // 10))
        if not 0 < size < total:
            raise TopworkError(f"{size} of {total} training rows cannot be cut off", place=f"data.{role}")
        groups = None if by is None else cuts.group_values(rows, by, role)
        strata = None if by is not None else cuts.label_strata(rows, self.task, self.data.columns)
        chosen = cuts.choose_rows(total, size, [self.seed, sum(role.encode())], strata, groups)
        if not 0 < len(chosen) < total:
            raise TopworkError(f"the groups of `{by}` cannot be divided", place=f"data.{role}", hint="leave out `by`")
        how = f", whole groups of `{by}`" if by is not None else ", in proportion to their labels" if strata else ""
        self.notes.append(f"{role}: {len(chosen)} of {total} training rows, cut off with seed {self.seed}{how}")
        return rows.select(np.setdiff1d(np.arange(total), chosen)), rows.select(chosen)
