"""Headers of local data files: their columns and number of rows, read without pandas, pyarrow's tables or `datasets`.

Entry point: `read_header`. It serves checks before a run and starters, so it answers None whenever it is not certain;
rows themselves are read by the plugins that implement `load_rows`.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork.files import exists, expanded

#: larger files are not counted
MOST_BYTES = 20_000_000
_LINES = 20
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".txt": "text"}


@dataclass(frozen=True)
class Header:
    """Columns and number of rows of a file.

    Args:
        columns: names in their order.
        rows: number of rows; None when they were not counted.
    """

    columns: tuple[str, ...]
    rows: int | None = None


def read_header(path: str, options: Mapping[str, Any] | None = None, format: str | None = None) -> Header | None:
    """Return the header of a local file (of a glob, that of the first file), or None where it is not certain.

    Args:
        path: as in a recipe.
        options: options of the loader; with others than a separator and an encoding the answer is None.
        format: the format that a recipe names, if it does.
    """
    options = dict(options or {})
    separator = options.pop("sep", options.pop("delimiter", None))
    encoding = options.pop("encoding", "utf-8-sig")
    file, many = _first_file(path)
    if options or file is None:
        return None
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = format or _FORMATS.get((suffixes[:-1] if packed else suffixes)[-1:][0] if suffixes else "")
    try:
        if suffixes[-1:] == [".parquet"] and format in (None, "parquet"):
            return _parquet(file, many)
        if kind is None or kind not in _FORMATS.values():
            return None
        text, whole = _text(file, packed, "utf-8-sig" if encoding in ("utf-8", "utf8") else encoding)
        whole = whole and not many
        if kind in ("csv", "tsv"):
            return _table(text, separator or ("\t" if kind == "tsv" else ","), kind, whole)
        if kind == "text":
            return Header(("text",), None)
        return _json(text, kind, whole)
    except (OSError, ValueError, LookupError, EOFError, ImportError, csv.Error):
        return None


def _first_file(path: str) -> tuple[Path | None, bool]:
    """Return the first file, and whether there are others."""
    file = expanded(path)
    if exists(file):
        return (file, False) if file.is_file() else (None, False)
    matches = sorted(glob.glob(str(file), recursive=True))[:2] if glob.has_magic(path) else []
    return (Path(matches[0]), len(matches) > 1) if matches and Path(matches[0]).is_file() else (None, False)


def _text(file: Path, packed: bool, encoding: str) -> tuple[str, bool]:
    """Return the beginning of a file, and whether it is all of it."""
    with gzip.open(file) if packed else file.open("rb") as stream:
        content = stream.read(MOST_BYTES)
    whole = len(content) < MOST_BYTES
    if not whole:  # the last character may be cut through
        content = content[: content.rfind(b"\n") + 1]
    return content.decode(encoding), whole


def _table(text: str, separator: str, kind: str, whole: bool) -> Header | None:
    stream = io.StringIO(text, newline="")
    if kind == "tsv":
        lines = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        lines = csv.reader(stream, delimiter=separator)
    columns = next((line for line in lines if line), None)
    if columns is None or len(set(columns)) < len(columns) or not all(columns):
        return None
    return Header(tuple(columns), sum(1 for line in lines if line) if whole else None)


def _json(text: str, kind: str, whole: bool) -> Header | None:
    if kind == "json" and text.lstrip()[:1] == "[":
        rows = json.loads(text) if whole else []
        count = len(rows) if whole else None
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines[:_LINES]]
        count = len(lines) if whole else None
    rows = rows[:_LINES]
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    if kind == "json" and count == 1:  # perhaps the rows lie below a key
        return None
    return Header(tuple(dict.fromkeys(name for row in rows for name in row)), count)


def _parquet(file: Path, many: bool) -> Header:
    from pyarrow import parquet

    metadata = parquet.read_metadata(file)
    return Header(tuple(metadata.schema.to_arrow_schema().names), None if many else metadata.num_rows)
