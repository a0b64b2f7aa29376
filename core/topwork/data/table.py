"""Rows of one role: the task's columns, cells as the columns want them, and the place where each row was written.

Entry point: `Table`, made by `topwork.data.columns.canonical` and by readers of files (`load_rows`). How text becomes
values stands in `cells`, how roles are cut in `cuts`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.streams import Stream
from topwork.errors import DataError

if TYPE_CHECKING:
    import numpy as np

#: longest quotation of a row in a message
_QUOTED = 60


@dataclass(frozen=True)
class Origin:
    """Location of rows in the files that they were read from.

    Args:
        files: names of the files that the rows come from.
        file: index into `files` of each row; None when there is at most one file.
        rows: number of each row in its file or data set, from 0; None when that is its index.
        lines: line of the file on which each row begins, from 1; None where a file has no lines.
        folder: of the files that cells name; None for that of the rows' own file.
    """

    files: tuple[str, ...] = ()
    file: np.ndarray | None = None
    rows: np.ndarray | None = None
    lines: np.ndarray | None = None
    folder: str | None = None

    def select(self, indices: np.ndarray) -> Origin:
        """Return the origin of the rows at these indices."""
        rows = indices if self.rows is None else self.rows[indices]
        file = None if self.file is None else self.file[indices]
        return replace(self, file=file, rows=rows, lines=None if self.lines is None else self.lines[indices])

    def row(self, index: int) -> int:
        """Return the number of a row in its file or data set."""
        return index if self.rows is None else int(self.rows[index])

    def file_of(self, index: int) -> str | None:
        """Return the file of a row, if it is known."""
        if not self.files:
            return None
        return self.files[0 if self.file is None else int(self.file[index])]

    def line_of(self, index: int) -> int | None:
        """Return the line of a row, from 1, if its file has lines."""
        return None if self.lines is None else int(self.lines[index])

    def location(self, index: int) -> str | None:
        """Return `file:line`, or the file alone; None when neither is known."""
        file, line = self.file_of(index), self.line_of(index)
        return f"{file}:{line}" if file is not None and line is not None else file

    @staticmethod
    def join(parts: Sequence[tuple[Origin, int]]) -> Origin:
        """Return the origin of tables one behind the other, given as (origin, number of rows)."""
        import numpy as np

        files: list[str] = []
        file, rows, lines = [], [], []
        for origin, count in parts:
            offset = len(files)
            files += origin.files or ("",)
            file.append(offset + (np.zeros(count, np.int64) if origin.file is None else origin.file))
            rows.append(np.arange(count) if origin.rows is None else origin.rows)
            lines.append(origin.lines)
        known = [part for part in lines if part is not None]
        joined: Any = np.concatenate(known) if known and len(known) == len(lines) else None
        folder = parts[0][0].folder if parts else None
        return Origin(tuple(files), np.concatenate(file), np.concatenate(rows), joined, folder)


class Table(Sequence):
    """Rows with random access: a data set of `datasets` or a list of dicts, with converted cells and an origin.

    Args:
        rows: a `datasets.Dataset`, or a list of dicts.
        origin: where the rows were written.
        readers: by column, what turns a cell into its value.
        written: True when all cells are text as written in a file (csv, tsv).
        names: by column (`label`, `objects.category`), the names that the source declares for integers.
        role: of the rows in a run.
        remarks: what was noticed while reading, for the log.

    Behaves like a `datasets.Dataset` in what tasks use: length, iteration, `table[index]`, `table["column"]`,
    `column_names`, `features`, `select`, `select_columns`.
    """

    def __init__(
        self,
        rows: Any,
        origin: Origin | None = None,
        *,
        readers: Mapping[str, Callable[[Any], Any]] | None = None,
        written: bool = False,
        names: Mapping[str, Sequence[str]] | None = None,
        role: str | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        self.rows, self.origin, self.readers = rows, origin or Origin(), dict(readers or {})
        self.written, self.names, self.role, self.remarks = written, dict(names or {}), role, list(remarks)

    def _with(self, rows: Any, origin: Origin) -> Table:
        return Table(
            rows,
            origin,
            readers=self.readers,
            written=self.written,
            names=self.names,
            role=self.role,
            remarks=self.remarks,
        )

    # ------------------------------------------------------------------ rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.column(index)
        if isinstance(index, slice):
            rows = [self[position] for position in range(*index.indices(len(self)))]
            if not hasattr(self.rows, "select_columns"):
                return rows
            return {name: [row[name] for row in rows] for name in self.column_names}
        return self._read(self.rows[index], index)

    def __iter__(self) -> Iterator[Any]:
        if not self.readers:
            yield from self.rows
            return
        for index, row in enumerate(self.rows):
            yield self._read(row, index)

    def _read(self, row: Any, index: int) -> Any:
        if not self.readers:
            return row
        values = row if hasattr(self.rows, "select_columns") else dict(row)  # rows in memory belong to somebody
        for name, convert in self.readers.items():
            value = values.get(name)
            if value is not None:
                values[name] = self._value(convert, value, index)
        return values

    def _value(self, convert: Callable[[Any], Any], value: Any, index: int) -> Any:
        if isinstance(convert, BesideTable):
            return convert(value, self.origin.file_of(index))
        try:
            return convert(value)
        except DataError as error:
            raise self.located(error, index) from error.__cause__

    def read_many(self, indices: Sequence[int]) -> Iterator[Callable[[], Any]]:
        """Yield for each index a function that returns its row or raises the error of a cell.

        Cells that need no decoding are fetched from the source together, which is many times faster than row by row.

        Args:
            indices: of rows, at least one.
        """
        features = self.features if hasattr(self.rows, "select_columns") else None
        if not features or not all(map(_is_plain, features.values())):
            yield from (partial(self.__getitem__, index) for index in indices)
            return
        first, last = indices[0], indices[-1]
        together = last - first + 1 == len(indices)
        columns = self.rows[slice(first, last + 1) if together else list(indices)]
        for index, *values in zip(indices, *columns.values()):
            yield partial(self._read, dict(zip(columns, values)), index)

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""
        cells = (
            dataset_column(self.rows, name)
            if hasattr(self.rows, "select_columns")
            else [row.get(name) for row in self.rows]
        )
        convert = self.readers.get(name)
        if convert is None:
            return list(cells)
        values = enumerate(cells)
        return [None if value is None else self._value(convert, value, index) for index, value in values]

    def __eq__(self, rows: object) -> bool:
        return isinstance(rows, Sequence) and list(self) == list(rows)

    __hash__ = None  # type: ignore[assignment]

    def to_list(self) -> list[Any]:
        """Return all rows."""
        return list(self)

    # ------------------------------------------------------------------ columns

    @property
    def column_names(self) -> list[str]:
        """Names of the columns; of a list of dicts those of all rows."""
        names = getattr(self.rows, "column_names", None)
        return list(names) if names is not None else list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def features(self) -> Any:
        """Features of the data set as it was read; None for a list of dicts."""
        return getattr(self.rows, "features", None)

    def select_columns(self, names: Sequence[str]) -> Table:
        """Return the same rows with these columns only; what must be opened for the others stays closed."""
        keep = [names] if isinstance(names, str) else list(names)
        if hasattr(self.rows, "select_columns"):
            rows = self.rows.select_columns(keep)
        else:
            rows = [{name: row[name] for name in keep if name in row} for row in self.rows]
        made = self._with(rows, self.origin)
        made.readers = {name: convert for name, convert in self.readers.items() if name in keep}
        return made

    # ------------------------------------------------------------------ parts

    def mapped_anew(self) -> Table:
        """Return the same rows, mapped into memory once more where they lie in files.

        Pages that were read through this table go with it, so whoever takes part after part holds one part's pages.
        """
        if not getattr(self.rows, "cache_files", None):
            return self
        try:
            return self._with(pickle.loads(pickle.dumps(self.rows)), self.origin)
        except OSError:  # the files are gone from the disk; what is mapped already can still be read
            return self

    def select(self, indices: Any) -> Table:
        """Return the rows at these indices, in their order."""
        import numpy as np

        chosen = np.asarray(list(indices) if not isinstance(indices, range) else indices, dtype=np.int64)
        if hasattr(self.rows, "select"):
            rows = self.rows.select(indices if isinstance(indices, range) else chosen)
        else:
            rows = [self.rows[index] for index in chosen]
        return self._with(rows, self.origin.select(chosen))

    def take(self, count: int) -> Table:
        """Return the first `count` rows."""
        return self.select(range(min(count, len(self))))

    def skip(self, count: int) -> Table:
        """Return all rows but the first `count`."""
        return self.select(range(min(count, len(self)), len(self)))

    def shuffle(self, seed: int | None = None) -> Table:
        """Return the rows in a random order, the same for the same seed, as `datasets` shuffles."""
        import numpy as np

        return self.select(np.random.default_rng(seed).permutation(len(self)))

    @staticmethod
    def concatenate(tables: Sequence[Table]) -> Table:
        """Return the rows of tables of one source, one behind the other."""
        import datasets

        if len(tables) == 1:
            return tables[0]
        origin = Origin.join([(table.origin, len(table)) for table in tables])
        if all(hasattr(table.rows, "select_columns") for table in tables):
            rows = datasets.concatenate_datasets([table.rows for table in tables])
        else:
            rows = [row for table in tables for row in table.rows]
        return tables[0]._with(rows, origin)

    def stream(self) -> Stream:
        """Return the rows as a stream."""
        return Stream(self.rows.to_iterable_dataset(), self.readers, self.names, self if self.written else None)

    # ------------------------------------------------------------------ where rows were written

    def row_number(self, index: int) -> int:
        """Return the number of a row in the file or data set that it comes from, from 0."""
        return self.origin.row(index)

    def located(self, error: DataError, index: int) -> DataError:
        """Fill in where the row of an error was written: role, file and line, its number there, and a quotation."""
        if error.index is not None:  # located already, by an inner table
            return error
        error.index, error.row = index, self.origin.row(index)
        error.file, error.line = self.origin.file_of(index), self.origin.line_of(index)
        location = self.origin.location(index)
        parts = [f"data.{self.role}" if self.role else None, location]
        if error.place is None:
            error.place = ", ".join(part for part in parts if part) or None
        error.quotation = quotation(self.rows[index])
        return error


def read_many(rows: Any, indices: Sequence[int]) -> Iterator[Callable[[], Any]]:
    """Yield for each index a function that returns its row, of rows of any kind; see `Table.read_many`."""
    if isinstance(rows, Table):
        return rows.read_many(indices)
    return (partial(rows.__getitem__, index) for index in indices)


def dataset_column(rows: Any, name: str) -> Sequence[Any]:
    """Return a column of a data set: at once where its values need no decoding, else one value after the other."""
    if isinstance(rows, Table) or not _is_plain((rows.features or {}).get(name)):
        return rows[name]
    return rows.select_columns([name]).with_format("arrow")[:].column(0).to_pylist()


def _is_plain(feature: Any) -> bool:
    """Return whether Arrow's values of a feature are those that `datasets` gives."""
    if hasattr(feature, "feature"):
        return _is_plain(feature.feature)
    return type(feature).__name__ in ("Value", "ClassLabel")


class BesideTable:
    """Reader of cells that name files: paths are relative to the table that names them.

    Args:
        resolve: (folder, cell) -> cell.
        folder: of the files; None for that of the table.
    """

    def __init__(self, resolve: Callable[[str, Any], Any], folder: str | None = None) -> None:
        self.resolve, self.folder = resolve, folder

    def __call__(self, value: Any, file: str | None) -> Any:
        """Return a cell that names a file, as a path relative to the folder of the table `file`."""
        return value if file is None else self.resolve(self.folder or str(Path(file).parent), value)


def quotation(row: Mapping[str, Any]) -> str | None:
    """Return the beginning of the first text of a row, to find it by; None for a row without a text."""
    for value in row.values():
        if isinstance(value, list) and value and isinstance(value[0], str):
            value = " ".join(word for word in value[:20] if isinstance(word, str))
        if isinstance(value, str) and value.strip():
            text = " ".join(value[: 4 * _QUOTED].split())
            return text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"
    return None


def located(rows: Any, error: DataError, index: int) -> DataError:
    """Fill in where the row of an error was written, as far as the rows know it."""
    if isinstance(rows, Table):
        return rows.located(error, index)
    error.row = index
    return error


def row_number(rows: Any, index: int) -> int:
    """Return the number of a row in its file or data set; of rows without an origin their index."""
    return rows.row_number(index) if isinstance(rows, Table) else index
