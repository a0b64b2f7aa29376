"""Rows: how roles (train, calibrate, evaluate, predict) are read, cut and renamed.

Where rows come from is the business of plugins (`load_rows`); here they get their canonical column names, their limit
and their roles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from topwork.data.options import DataOptions, RowsOptions
from topwork.errors import TopworkError, nearest
from topwork.items import Row

if TYPE_CHECKING:
    from topwork import Plugins
    from topwork.task import Task

# ---------------------------------------------------------------- canonical columns


def canonical(rows: Any, task: type[Task], columns: Mapping[str, str], *, targets: bool, place: str) -> Any:
    """The rows with the task's column names and nothing else.

    Args:
        rows: a `datasets` dataset or a list of dicts.
        columns: the task's column -> the rows' column; columns that are not named keep their name.
        targets: True when the target columns must be there too.

    Raises:
        TopworkError: a column is missing; the error names those that exist.
    """
    plain = _are_plain(rows, place)
    if plain and not rows:
        return []
    present = column_names(rows)
    if unknown := sorted(set(columns) - set(task.columns)):
        raise TopworkError(
            f"`{unknown[0]}` is not a column of task {task.name}{nearest(unknown[0], task.columns)}",
            place="data.columns",
            hint=f"its columns are {', '.join(task.columns)}",
        )
    source = {name: columns.get(name, name) for name in task.columns}
    for name, column in task.columns.items():
        asked = name in columns
        needed = asked or (column.required and (targets or not column.target))
        if needed and source[name] not in present:
            raise TopworkError(
                f"no column `{source[name]}` for the task's `{name}` ({column.description})"
                f"{nearest(source[name], present)}",
                place=place,
                hint=f"there are {', '.join(present) or 'none'}; map it with `data.columns: {{{name}: ...}}`",
            )
    kept = {name: origin for name, origin in source.items() if origin in present}
    if plain:
        return [{name: row.get(origin) for name, origin in kept.items()} for row in rows]
    return _renamed(rows, kept, [name for name, column in task.columns.items() if column.lazy])


def _are_plain(rows: Any, place: str) -> bool:
    """Whether rows are a list of dicts; False for a dataset of `datasets`. Anything else is refused."""
    if hasattr(rows, "select_columns"):
        return False
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise TopworkError(
            f"rows are a list of dicts or a dataset of `datasets`, not {type(rows).__name__}", place=place
        )
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TopworkError(f"row {number} is {type(row).__name__}, not a dict", place=place)
    return True


def undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """The dataset with files of these columns as {"bytes", "path"}: the task opens them, so that a file that cannot be
    opened is a fault of its row and not of the whole data set."""
    features = getattr(dataset, "features", None) or {}
    for name in columns:
        if getattr(features.get(name), "decode", False):
            dataset = dataset.cast_column(name, replace(features[name], decode=False))
    return dataset


def _renamed(dataset: Any, kept: Mapping[str, str], lazy: Sequence[str] = ()) -> Any:
    """A `datasets` dataset with the columns `kept` (new name -> old name)."""
    if len(set(kept.values())) < len(kept):
        raise TopworkError("two of the task's columns are mapped to one column", place="data.columns")
    dataset = undecoded(dataset.select_columns(list(kept.values())), [kept[name] for name in lazy if name in kept])
    moves = {origin: f"\0{name}" for name, origin in kept.items() if origin != name}
    if moves:  # by way of free names, so that columns can be swapped
        dataset = dataset.rename_columns(moves).rename_columns({new: new[1:] for new in moves.values()})
    return dataset


def column_names(rows: Any) -> list[str]:
    """Names of the columns of a dataset or of a list of dicts; a streaming set may need its first row for that."""
    names = getattr(rows, "column_names", None)
    if names is not None:
        return list(names)
    if isinstance(rows, Sequence):  # a row may lack what another has
        return list(dict.fromkeys(name for row in rows for name in row))
    first = next(iter(rows), None)
    return list(first) if first is not None else []


def row_count(rows: Any) -> int | None:
    """Number of rows, or None for a streaming set."""
    return len(rows) if hasattr(rows, "__len__") else None


def chunks(rows: Any, size: int, index: int = 0, count: int = 1) -> Iterator[tuple[list[int], list[Row]]]:
    """Rows in lists of `size` with their numbers; process `index` of `count` gets every count-th row."""
    numbers: list[int] = []
    found: list[Row] = []
    length = row_count(rows)
    picked = enumerate(rows) if length is None else ((number, rows[number]) for number in range(index, length, count))
    for number, row in picked:
        if length is None and number % count != index:
            continue
        numbers.append(number)
        found.append(row)
        if len(found) == size:
            yield numbers, found
            numbers, found = [], []
    if found:
        yield numbers, found


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
            self._named[role] = canonical(rows, self.task, self.data.columns, targets=targets, place=f"data.{role}")
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
        for role in ("evaluate", "calibrate"):
            options = getattr(self.data, role)
            if role in self._raw or isinstance(options, RowsOptions):
                continue
            if options is None and (role == "evaluate" or role not in self.wanted):
                continue
            rows, self._raw[role] = self._split(rows, options.cut if options else None, role)
        self._raw["train"] = rows
        self._cut_done = True

    def _train_options(self) -> RowsOptions:
        if self.data.train is None:
            raise TopworkError("the recipe has no training rows", place="data", hint="add `data.train`")
        return self.data.train

    def _split(self, rows: Any, cut: float | int | None, role: str) -> tuple[Any, Any]:
        total = row_count(rows)
        if total is None:
            if not isinstance(cut, int):
                raise TopworkError(
                    f"{role} rows can be cut from streaming rows by number only",
                    place=f"data.{role}",
                    hint="write `cut: 1000`",
                )
            return rows.skip(cut), rows.take(cut)
        number = cut if isinstance(cut, int) else round(total * cut) if cut else min(1000, max(1, total // 10))
        if not 0 < number < total:
            raise TopworkError(f"{number} of {total} training rows cannot be cut off", place=f"data.{role}")
        self.notes.append(f"{role}: {number} of {total} training rows, cut off with seed {self.seed}")
        return split_rows(rows, number, self.seed, role)


def split_rows(rows: Any, number: int, seed: int, role: str) -> tuple[Any, Any]:
    """Cut `number` rows off at random: (the others in their order, those cut off in their order)."""
    import numpy as np

    chosen = np.random.default_rng([seed, sum(role.encode())]).permutation(len(rows))[:number]
    mask = np.zeros(len(rows), dtype=bool)
    mask[chosen] = True
    cut, rest = np.flatnonzero(mask), np.flatnonzero(~mask)
    if hasattr(rows, "select"):
        return rows.select(rest), rows.select(cut)
    return [rows[number] for number in rest], [rows[number] for number in cut]
