"""Folders of images or clips that a table describes: `metadata.csv` or `metadata.jsonl` names the file of every row.

Entry point: `read_described`. The layout is that of `datasets`: `file_name` names the image or the clip, a column such
as `mask_file_name` another file of the row. Cells are text as written. Folders without a table are read elsewhere:
audio in `audio_files`, images by `datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topwork import DataError, Table, listed, split_named
from topwork_bases.rows.records import read_records
from topwork_bases.rows.tables import read_table
from topwork_bases.rows.walking import files_below

TABLES = ("metadata.csv", "metadata.jsonl")
_FILE = "file_name"


def read_described(tables: Sequence[Path], folder: Path | None, column: str, feature: Any) -> dict[str, Table]:
    """Return by split the rows that tables describe.

    Args:
        tables: files named as in `TABLES`.
        folder: the root, whose folders may be splits.
        column: for the files that `file_name` names.
        feature: of `datasets`, of that column.

    Raises:
        DataError: a row that names no file, or one that does not exist.
    """
    made: dict[str, list[Table]] = {}
    for table in tables:
        for split, rows in _by_split(table, folder, column, feature).items():
            made.setdefault(split, []).append(rows)
    return {split: Table.concatenate(parts) for split, parts in made.items()}


def folder_remark(rows: Any, noun: str) -> str:
    """Return how a folder of images or clips was read: their number, and the labels that its folders name."""
    names = getattr((rows.features or {}).get("label"), "names", None)
    labels = f", {len(names)} labels from the names of folders: {listed(names, 8)}" if names else ""
    return f"read as a folder of {noun}: {len(rows):,} {noun}{labels}"


def split_of(path: Path, folder: Path | None) -> str | None:
    """Return the split that the first folder below the root names."""
    parts = path.relative_to(folder).parts[:-1] if folder and path.is_relative_to(folder) else ()
    return split_named(parts[0]) if parts else None


def _by_split(file: Path, folder: Path | None, column: str, feature: Any) -> dict[str, Table]:
    import datasets

    table = read_table(file, {}) if file.suffix == ".csv" else read_records(file, {})
    made_of = {name: _column_of(name, column) for name in table.column_names}
    files = {name: chosen for name, chosen in made_of.items() if chosen is not None}
    if column not in files.values():
        raise DataError(
            f"{file}: has no column `{_FILE}`",
            hint=f"name the file of every row in it; the columns are {listed(table.column_names, 24)}",
        )
    rows, splits = [], []
    for index, row in enumerate(table):
        line = table.origin.line_of(index)
        paths = {made: _named_file(file, line, index, name, row.pop(name)) for name, made in files.items()}
        rows.append({name: None if path is None else _cell(path) for name, path in paths.items()} | row)
        splits.append(split_of(paths[column], folder) or split_of(file, folder) or "train")
    made = datasets.Dataset.from_list(rows)
    for name in files.values():
        made = made.cast_column(name, feature)
    remark = f"{file}: describes {len(rows):,} {column} files; columns {listed(made.column_names)}"
    if unnamed := _unnamed(file, rows, list(files.values())):
        remark += f"; {unnamed:,} more are named by no row, and left out"
    whole = Table(made, table.origin, written=table.written, remarks=[*table.remarks, remark])
    return {
        split: whole.select([index for index, name in enumerate(splits) if name == split])
        for split in dict.fromkeys(splits)
    }


def _unnamed(file: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> int:
    """Return how many files below a table have the suffix of files that it names, and are named by no row."""
    named = {Path(row[column]["path"]) for row in rows for column in columns if row[column] is not None}
    suffixes = {path.suffix.lower() for path in named}
    folders = {path.parent for path in named}
    beside = (path.resolve() for path in files_below(file.parent) if path.suffix.lower() in suffixes)
    return sum(path not in named for path in beside if path.parent in folders)


def _column_of(name: str, column: str) -> str | None:
    """Return the column for the files that a column of a table names; None for a column of other things."""
    if name == _FILE:
        return column
    return name.removesuffix(f"_{_FILE}") if name.endswith(f"_{_FILE}") else None


def _named_file(file: Path, line: int | None, index: int, column: str, name: Any) -> Any:
    if not name:
        if column != _FILE:
            return None
        raise DataError(f"{file}:{line}: entry {index + 1} has no `{column}`", hint="name the file of every entry")
    path = file.parent / str(name)
    if not path.is_file():
        raise DataError(
            f"{file}:{line}: entry {index + 1} names `{name}`, which does not exist", hint="correct the entry"
        )
    return path


def _cell(path: Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(path.resolve())}
