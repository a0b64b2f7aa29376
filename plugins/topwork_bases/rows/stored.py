"""Rows of text files in the cache of `datasets`: read once, then mapped into memory, with the line of each row.

Entry point: `stored_table`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from topwork import DataError, Origin, Table, UsageError

#: changes when files are read in another way, so that older copies are not used
_VERSION = 2
#: name of the column with the line of each row; no column of a user has it
_LINE = "__line_of_topwork__"

#: columns and lines of some rows
Batch = tuple[dict[str, list[Any]], list[int]]


def stored_table(
    path: Path, key: Sequence[str], read: Callable[[list[str]], Iterator[Batch]], *, written: bool
) -> Table:
    """Return the rows of a file, read now or taken from the cache.

    Args:
        path: the file.
        key: how the file is read.
        read: reads the file; it is given a list for remarks.
        written: the cells are text as written.

    Raises:
        DataError: the file has no rows, or cannot be read.
    """
    import datasets
    import pyarrow

    state = path.stat()
    text = repr((_VERSION, str(path.resolve()), state.st_size, state.st_mtime_ns, *key))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "topwork"
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.arrow"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, file, read)
    rows = datasets.Dataset.from_file(str(file))
    lines = rows.data.column(_LINE).to_numpy()
    with pyarrow.memory_map(str(file)) as source:
        metadata = pyarrow.ipc.open_stream(source).schema.metadata or {}
    remarks = json.loads(metadata.get(b"topwork", b"[]"))
    return Table(rows.remove_columns(_LINE), Origin((str(path),), lines=lines), written=written, remarks=remarks)


def below_folder(table: Table, folder: Any) -> Table:
    """Return a table whose cells name files below a folder, which is given relative to the table itself.

    Raises:
        UsageError: there is no such folder.
    """
    if folder is None:
        return table
    path = Path(table.origin.files[0]).parent / Path(str(folder)).expanduser()
    if not path.is_dir():
        raise UsageError(f"there is no folder `{path}`", hint="`options: {files: ...}` is relative to the table")
    table.origin = replace(table.origin, folder=str(path.resolve()))
    return table


def _write(path: Path, file: Path, read: Callable[[list[str]], Iterator[Batch]]) -> None:
    """Write the rows to a file of Arrow, which appears whole or not at all; memory holds some rows at a time only."""
    import pyarrow

    remarks: list[str] = []
    temporary, pieces = file.with_suffix(f".{os.getpid()}"), file.with_suffix(f".{os.getpid()}.parts")
    try:
        names, schemas = _write_parts(path, pieces, read(remarks))
        if not schemas:
            raise DataError(f"{path}: has no rows", hint="write rows below the header")
        schema = _joined(path, [part.empty_table() for part in schemas], names).schema
        schema = schema.with_metadata({b"topwork": json.dumps(remarks).encode()})
        with (
            pyarrow.OSFile(str(pieces), "rb") as source,
            pyarrow.OSFile(str(temporary), "wb") as sink,
            pyarrow.ipc.new_stream(sink, schema) as writer,
        ):
            for _ in schemas:  # parts stay as large as they were read: opening many small ones maps most of the file
                part = pyarrow.ipc.open_stream(source).read_all()
                writer.write_table(_joined(path, [schema.empty_table(), part], names).combine_chunks())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
        pieces.unlink(missing_ok=True)


def _write_parts(path: Path, pieces: Path, batches: Iterator[Batch]) -> tuple[set[str], list[Any]]:
    """Write rows as streams of Arrow, one behind the other; return columns that become text, and the parts' schemas."""
    import pyarrow

    names: set[str] = set()
    schemas = []
    with pyarrow.OSFile(str(pieces), "wb") as sink:
        for columns, lines in batches:
            part = _part(path, columns, lines, names)
            with pyarrow.ipc.new_stream(sink, part.schema) as writer:
                writer.write_table(part)
            schemas.append(part.schema)
    return names, schemas


def _part(path: Path, columns: dict[str, list[Any]], lines: list[int], names: set[str]) -> Any:
    """Return rows as a table of Arrow; columns with integers beyond 64 bits become text, and are added to `names`."""
    import pyarrow

    arrays = {}
    for name, values in columns.items():
        try:
            array = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
            if not any(map(_is_huge, values)):
                raise _mixture(path, name, values, lines) from error
            array = _with_huge(path, name, values, lines)
            if array.type == "string":
                names.add(name)
        arrays[name] = array
    return pyarrow.table({**arrays, _LINE: pyarrow.array(lines, "int64")})


def _is_huge(value: Any) -> bool:
    """Return whether a value is, or holds, an integer that no column of 64 bits has."""
    if isinstance(value, dict):
        return any(map(_is_huge, value.values()))
    if isinstance(value, list):
        return any(map(_is_huge, value))
    if isinstance(value, str):
        return len(value) >= 4000 and value.lstrip("-").isdecimal()
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _with_huge(path: Path, name: str, values: list[Any], lines: list[int]) -> Any:
    """Return a column with integers beyond 64 bits: as text where all are integers, as floats where some are floats."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, str} and all(isinstance(value, int | None) or _is_huge(value) for value in values):
        return pyarrow.array([None if value is None else str(value) for value in values], "string")
    if kinds == {int, float}:
        return pyarrow.array([None if value is None else float(value) for value in values], "float64")
    for line, value in zip(lines, values):
        if isinstance(value, list | dict) and _is_huge(value):
            short = str(value) if len(str(value)) <= 40 else f"{str(value)[:40]}…"
            raise DataError(f"{path}:{line}: `{name}`: {short} is no number of 64 bits", hint="write it as a string")
    raise _mixture(path, name, values, lines)


def _joined(path: Path, parts: list[Any], names: set[str]) -> Any:
    """Return the parts as one table, with one type for each column."""
    import pyarrow

    for name in names:  # of one part of the file, and so of all
        parts = [_as_text(part, name) for part in parts]
    try:
        table = pyarrow.concat_tables(parts, promote_options="permissive")
        for index, column in enumerate(table.schema):
            if column.type == "null":  # of a column without any value
                table = table.set_column(index, column.name, table.column(index).cast("string"))
        return table
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise DataError(
            f"{path}: a column has values of different kinds: {str(error).splitlines()[0]}",
            hint="write all values alike",
        ) from error


def _as_text(table: Any, name: str) -> Any:
    index = table.schema.get_field_index(name)
    if index < 0 or not str(table.schema.field(index).type).startswith(("int", "uint")):
        return table
    return table.set_column(index, name, table.column(index).cast("string"))


def _mixture(path: Path, name: str, values: Sequence[Any], lines: Sequence[int]) -> DataError:
    """Return the error for a column with values of different kinds: names the first value that differs."""
    kinds = {bool: "a truth value", str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    first = next((value for value in values if value is not None), None)
    for line, value in zip(lines, values):
        if value is not None and kinds.get(type(value)) != kinds.get(type(first)):
            return DataError(
                f"{path}:{line}: `{name}` is {kinds.get(type(value), type(value).__name__)} here,"
                f" {kinds.get(type(first), type(first).__name__)} before",
                hint="write all values of a column alike",
            )
    return DataError(
        f"{path}: the values of `{name}` are of different kinds", hint="write all values of a column alike"
    )
