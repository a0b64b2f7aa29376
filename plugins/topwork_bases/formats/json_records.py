"""Records of JSON with a known shape: each with its line, and the first ones, by which a layout is recognised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topwork import DataError
from topwork_bases.rows.records import lines_of
from topwork_bases.rows.text_files import encoding_of, open_text, parse_json

_LOOKED_AT = 50


def located_records(path: Path, encoding: str | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line, record) of JSON lines, or of a list.

    Raises:
        DataError: a damaged file, a record that is no object; with its line.
    """
    with open_text(path, encoding, []) as file:
        text = file.read()
    if text.lstrip().startswith("["):
        records = parse_json(path, 1, text)
        located: Iterator[tuple[int, Any]] = zip(lines_of(text, records), records)
    else:  # other line ends may stand inside of a text
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        located = ((number, parse_json(path, number, line)) for number, line in lines)
    for line, record in located:
        if not isinstance(record, dict):
            raise DataError(f"{path}:{line}: {str(record)[:40]} is no object", hint="write {...} for every record")
        yield line, record


def first_records(path: Path) -> list[Mapping[str, Any]]:
    """Return the first records of a file of JSON, read from its beginning; none where a value is no record."""
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson") or not path.is_file():
        return []
    with path.open(encoding=encoding_of(path, None, []), errors="replace") as file:
        head = file.read(2**16).lstrip()
    decoder, records = json.JSONDecoder(parse_int=str), list[Mapping[str, Any]]()
    position = 1 if head.startswith("[") else 0
    while len(records) < _LOOKED_AT:
        position = next((index for index in range(position, len(head)) if head[index] not in " \t\r\n,"), len(head))
        if not head.startswith("{", position):
            break
        try:
            record, position = decoder.raw_decode(head, position)
        except (ValueError, RecursionError):  # cut off by the end of what was read
            break
        records.append(record)
    return records
