"""Tables of text (csv, tsv), read as they are written: every cell is text, an empty cell is missing.

Entry point: `read_table`. What a cell means is decided by the task's columns, in the core. A row whose number of fields
is not that of the header, and a quotation mark that swallows lines, are refused with their line.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from topwork import DataError, Table, UsageError, unknown
from topwork_bases.rows.stored import below_folder, stored_table
from topwork_bases.rows.text_files import open_text

#: separators that are recognised in the header
_SEPARATORS = (",", ";", "\t", "|")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar", " ": "a space"}
_FORM = ("sep", "delimiter", "encoding", "quoting", "names", "column_names", "header", "skiprows", "dtype")
#: how a table is written, and the folder of the files that it names
TABLE_OPTIONS = (*_FORM, "files")
_BATCH = 20_000
#: values of a column that are compared with what stands in fields of several lines: their length and their number
_SHORT, _MOST_VALUES = 60, 10_000
#: rows that are looked at for a separator, and for how labels are written
_LOOKED_AT = 50
#: the line by which spreadsheets state the separator
_STATED = re.compile(r'"?sep=(.)"?')
csv.field_size_limit(2**31 - 1)
#: the one other thing that a strict reader refuses, fields being of any size and lines ending at every kind of end
_UNCLOSED = "at the beginning of a field is not closed at its end"


@dataclass(frozen=True)
class Form:
    """Form in which a table is written.

    Args:
        sep: between fields; None detects it.
        quoted: fields may stand in quotation marks; None decides it by the separator.
        encoding: None detects it.
        names: of the columns, for files without a header.
        skip: lines above the header.
        usual: separator that is expected where none is given.
    """

    sep: str | None = None
    quoted: bool | None = None
    encoding: str | None = None
    names: tuple[str, ...] = ()
    skip: int = 0
    usual: str = ","


def form_of(options: Mapping[str, Any], tab: bool) -> Form:
    """Return the form that a recipe's `options` say.

    Args:
        options: of the recipe.
        tab: the file's name says that tabs stand between fields.

    Raises:
        UsageError: an unknown option or value.
    """
    for name in options:
        if name not in TABLE_OPTIONS:
            raise unknown("option of a table", name, TABLE_OPTIONS)
    sep = options.get("sep", options.get("delimiter"))
    if sep is not None and (not isinstance(sep, str) or len(sep) != 1):
        raise UsageError(f"`sep: {sep}` is no single sign", hint="write one, such as ';'")
    quoting = options.get("quoting")
    known = {
        None: None,
        "none": False,
        3: False,
        "minimal": True,
        "all": True,
        0: True,
        1: True,
    }
    if not isinstance(quoting, str | int | type(None)) or quoting not in known:
        raise UsageError(f"`quoting: {quoting}` is unknown", hint="write `none` or `minimal`")
    names = options.get("names") or options.get("column_names") or ()  # both are names that `datasets` takes
    if options.get("header", "infer") is None and not names:
        raise UsageError("a table without a header needs `names`", hint="write `options: {names: [text, label]}`")
    skip = options.get("skiprows", 0)
    if not isinstance(skip, int) or skip < 0:
        raise UsageError(f"`skiprows: {skip}` is no number of lines", hint="write 1, 2 ...")
    usual = "\t" if tab else ","
    return Form(sep, known[quoting], options.get("encoding"), tuple(map(str, names)), skip, usual)


def read_table(path: Path, options: Mapping[str, Any], tab: bool = False) -> Table:
    """Read a csv or tsv file.

    Raises:
        DataError: a damaged file, with its line.
    """
    form = form_of(options, tab)
    table = stored_table(path, ("table", repr(form)), lambda remarks: _batches(path, form, remarks), written=True)
    return below_folder(table, options.get("files"))


def read_header(path: Path, form: Form) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: an empty file, a name that stands twice.
    """
    return _header(path, form, [])[1]


def _batches(path: Path, form: Form, remarks: list[str]) -> Iterator[tuple[dict[str, list[Any]], list[int]]]:
    """Yield columns and lines of rows, many at a time."""
    form, header, start = _header(path, form, remarks)
    if form.quoted is None:
        form = replace(form, quoted=_is_quoted(path, form, len(header), start, remarks))
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, row in _checked_rows(path, form, len(header), start):
        rows.append(row)
        lines.append(line)
        if len(rows) == _BATCH:
            yield _columns(header, rows), lines
            rows, lines = [], []
    if rows:
        yield _columns(header, rows), lines


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    columns = zip(*rows)
    return {
        name: [cell or None for cell in cells] if "" in cells else list(cells) for name, cells in zip(header, columns)
    }


def _checked_rows(path: Path, form: Form, width: int, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield rows that have the header's number of fields; a field of several lines must not hold rows of its own."""
    several: list[tuple[int, list[str]]] = []
    for line, row, last in _rows(path, form, start):
        if len(row) != width:
            raise DataError(f"{path}:{line}: {_misfit(len(row), width, form)}", hint=_misfit_hint(len(row), width))
        if last > line:
            several.append((line, row))
        yield line, row
    if not several:
        return
    seen = _values(path, form, width, start)
    for line, row in several:
        if _holds_rows(row, form.sep or ",", width, seen):
            raise DataError(
                f"{path}:{line}: a quotation mark at the beginning of a field swallows the lines after it",
                hint='close or double the mark (""), or read marks as text: `options: {quoting: none}`',
            )


def _values(path: Path, form: Form, width: int, start: int) -> list[set[str]]:
    """Short values of each column, of rows that stand on one line."""
    seen: list[set[str]] = [set() for _ in range(width)]
    for line, row, last in _rows(path, form, start):
        if last == line:
            for values, cell in zip(seen, row):
                if len(cell) < _SHORT and len(values) < _MOST_VALUES:
                    values.add(cell)
    return seen


def _holds_rows(row: Sequence[str], sep: str, width: int, seen: Sequence[set[str]]) -> bool:
    """Return whether a field of several lines holds what other rows have: fields with known values of their columns."""
    for position, cell in enumerate(row):
        for number, text in enumerate(cell.splitlines()[:-1]):
            fields = text.split(sep)
            offset = position if number == 0 else 0
            if len(fields) + offset == width and any(
                field in values and field for field, values in zip(fields[1:], seen[offset + 1 :])
            ):
                return True
    return False


def _misfit(count: int, width: int, form: Form) -> str:
    fields = f"{count} field{'s' * (count != 1)}"
    return f"has {fields} where the header has {width} (separated by {_NAMES.get(form.sep or ',', repr(form.sep))})"


def _misfit_hint(count: int, width: int) -> str:
    if width == 1 and count > 1:
        return "if the first line is no header, skip it: `options: {skiprows: 1}`; or name the separator: `sep`"
    if count > width:
        return "put fields that hold the separator in quotation marks, or name another separator: `options: {sep: ...}`"
    return "complete the row, or name the separator: `options: {sep: ...}`"


def _rows(path: Path, form: Form, start: int) -> Iterator[tuple[int, list[str], int]]:
    """Yield (first line, fields, last line) of every row behind the header; empty lines are no rows."""
    line, is_read = start + 1, False

    def lines(file: IO[str]) -> Iterator[str]:
        nonlocal is_read
        yield from file
        is_read = True

    with open_text(path, form.encoding, []) as file:
        for _ in range(start):
            file.readline()
        if form.quoted:
            reader = csv.reader(lines(file), delimiter=form.sep or ",", strict=True)
        else:
            reader = csv.reader(lines(file), delimiter=form.sep or ",", quoting=csv.QUOTE_NONE)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                end = start + reader.line_num
                cause = "is opened and never closed" if is_read else _UNCLOSED
                raise DataError(
                    f"{path}:{line}: a quotation mark {cause}",
                    hint='double marks inside of a field (""), or read them as text: `options: {quoting: none}`',
                ) from error
            end = start + reader.line_num
            if row:
                yield line, row, end
            line = end + 1


# ---------------------------------------------------------------- the header


def _header(path: Path, form: Form, remarks: list[str]) -> tuple[Form, list[str], int]:
    """Return the form with its separator, the names of the columns, and the number of lines above the first row.

    Raises:
        DataError: an empty file, a name that stands twice.
    """
    with open_text(path, form.encoding, remarks) as file:
        head = [text for _, text in zip(range(form.skip + _LOOKED_AT), file)][form.skip :]
    if not any(text.strip() for text in head):
        raise DataError(f"{path}: the file is empty", hint="write a header and rows")
    blank = next(index for index, text in enumerate(head) if text.strip())
    sep = form.sep
    if (stated := _STATED.fullmatch(head[blank].rstrip("\r\n"))) and len(head) > blank + 1:
        sep, blank = sep or stated[1], blank + 1
    if sep is None:
        sep = _detected(path, head[blank:], form.usual, remarks)
    form = replace(form, sep=sep, quoted=form.quoted if form.quoted is not None or sep == "\t" else True)
    start = form.skip + blank
    if form.names:
        return form, list(form.names), start
    names = _header_fields(path, form, start)
    named = [name if name.strip() else f"Unnamed: {index}" for index, name in enumerate(names)]
    twice = next((name for name, count in Counter(named).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}:{start + 1}: the header has `{twice}` twice", hint="give every column its own name")
    return form, named, start + 1


def _header_fields(path: Path, form: Form, start: int) -> list[str]:
    quoted = Form(form.sep, form.quoted is not False, form.encoding)
    names = next((row for _, row, _ in _rows(path, quoted, start)), [])
    return [name.removeprefix("\ufeff") for name in names]


def _detected(path: Path, head: Sequence[str], usual: str, remarks: list[str]) -> str:
    """Return the separator: the usual one where it fits, else the sign that header and next rows share.

    Args:
        path: of the table, for messages.
        head: the header and lines below it.
        usual: a comma, or a tab by the file's name.
        remarks: takes a line about what was detected.
    """
    header, rows = head[0], [text for text in head[1:] if text.strip()]

    def fits(sep: str) -> bool:
        count = header.count(sep)
        return bool(count) and all(text.count(sep) >= count for text in rows)

    if fits(usual) or (usual in header and not rows):
        return usual
    others = [sep for sep in _SEPARATORS if sep != usual]
    for sep in others:
        if fits(sep):
            remarks.append(f"{path}: {_NAMES[sep]} stands between fields (`options: {{sep: ...}}` says otherwise)")
            return sep
    if usual in header:
        return usual
    for sep in others:
        if sep in header and rows:
            raise DataError(
                f"{path}:1: the header looks separated by {_NAMES[sep]}, the rows do not",
                hint=f"name the separator: `options: {{sep: {sep!r}}}`",
            )
    return usual


def _is_quoted(path: Path, form: Form, width: int, start: int, remarks: list[str]) -> bool:
    """Return whether fields of a table with tabs are quoted: only where they would have the wrong number otherwise."""
    plain = Form(form.sep, False, form.encoding)
    first = next(((line, row) for line, row, _ in _rows(path, plain, start) if len(row) != width), None)
    if first is None:
        return False
    try:
        fits = all(len(row) == width for _, row, _ in _rows(path, Form(form.sep, True, form.encoding), start))
    except DataError:
        fits = False
    if fits:
        remarks.append(f"{path}: fields stand in quotation marks (`options: {{quoting: none}}` says otherwise)")
        return True
    line, row = first
    raise DataError(f"{path}:{line}: {_misfit(len(row), width, form)}", hint=_misfit_hint(len(row), width))
