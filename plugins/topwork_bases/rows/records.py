"""Records of JSON and JSON lines: strings stay strings, whatever they look like.

Entry point: `read_records`. A file is one list of records, one record a line, or an object in which a list of records
stands under one of its keys; SQuAD's nested files become one row a question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError, listed, nearest, unknown
from topwork_bases.rows.stored import below_folder, stored_table
from topwork_bases.rows.text_files import open_text, parse_json

_OPTIONS = ("field", "encoding", "files")
_BATCH = 20_000


def read_records(path: Path, options: Mapping[str, Any]) -> Table:
    """Read a file of JSON or JSON lines.

    Args:
        path: the file, packed or not.
        options: `field` names the key under which the records stand; `encoding`; `files`, the folder of files that
            records name.

    Raises:
        DataError: a damaged file, with its line.
        UsageError: an unknown option.
    """
    for name in options:
        if name not in _OPTIONS:
            raise unknown("option of JSON", name, _OPTIONS)
    field, encoding = options.get("field"), options.get("encoding")
    key = ("records", repr(field), repr(encoding))
    table = stored_table(path, key, lambda remarks: _batches(path, field, encoding, remarks), written=False)
    if len(table) == 1:
        table.remarks.append(f"{path}: read as one row with the columns {listed(table.column_names, 8)}")
    return below_folder(table, options.get("files"))


def _batches(
    path: Path, field: str | None, encoding: str | None, remarks: list[str]
) -> Iterator[tuple[dict[str, list[Any]], list[int]]]:
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    for line, row in _records(path, field, encoding, remarks):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{line}: {_kind(row)} where an object is wanted", hint='write {"column": value, ...}'
            )
        rows.append(row)
        lines.append(line)
        if len(rows) == _BATCH:
            yield _columns(rows), lines
            rows, lines = [], []
    if rows:
        yield _columns(rows), lines


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")


def _records(path: Path, field: str | None, encoding: str | None, remarks: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line, record) of all records."""
    with open_text(path, encoding, remarks) as file:
        if field is None and _is_lines(path, encoding):
            yield from _from_lines(path, file)
            return
        text = file.read()
    if not text.strip():
        raise DataError(f"{path}: the file is empty", hint="write records")
    content = parse_json(path, 1, text)
    records = _wrapped(path, content, field, remarks)
    lines = lines_of(text, records) if isinstance(content, list) else None
    for index, record in enumerate(records):
        yield (lines[index] if lines is not None else index + 1), record


def _is_lines(path: Path, encoding: str | None) -> bool:
    """Return whether the first line that is not empty is a record by itself, and another one follows or none does."""
    with open_text(path, encoding, []) as file:
        first = next((line for line in file if line.strip()), "")
        second = next((line for line in file if line.strip()), "")
    if not first.lstrip().startswith("{"):
        return False
    try:
        record = json.loads(first, parse_int=str)
    except json.JSONDecodeError:
        return second.lstrip().startswith("{") and first.rstrip().endswith("}")
    except RecursionError:
        return True  # reading the line refuses it
    return bool(second) or ".json" not in path.suffixes[-2:] or _is_plain(record)


def _is_plain(record: Any) -> bool:
    """Return whether a lone record is a row: no list of records stands in it."""
    return not any(isinstance(value, list) and value and isinstance(value[0], dict) for value in record.values())


def _from_lines(path: Path, file: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        yield number, parse_json(path, number, line.rstrip("\r\n"))


def lines_of(text: str, records: Sequence[Any]) -> list[int]:
    """Return the line on which each record of a list begins."""
    decoder = json.JSONDecoder(parse_int=str)
    lines: list[int] = []
    position, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("[") + 1)
    for _ in records:
        start = position
        while text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", start, position)
        lines.append(line)
        end = decoder.raw_decode(text, position)[1]
        line += text.count("\n", position, end)
        position = end
    return lines


def _wrapped(path: Path, content: Any, field: str | None, remarks: list[str]) -> list[Any]:
    """Return the records of a file: the list that it is, or that stands under a key.

    Raises:
        DataError: no such key, several lists, none.
    """
    if field is not None:
        if not isinstance(content, dict) or field not in content:
            names = list(content) if isinstance(content, dict) else []
            raise UsageError(f"{path}: no key `{field}`{nearest(field, names)}", hint=f"keys: {listed(names, 24)}")
        content = content[field]
        if not isinstance(content, list):
            raise DataError(
                f"{path}: `{field}` holds {_kind(content)}, no list of records", hint="name another `field`"
            )
    if isinstance(content, list):
        return _questions(path, content, remarks)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {_kind(content)}, no records", hint="write a list of objects")
    lists = [
        name for name, value in content.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if not lists:
        return [content]
    if len(lists) > 1:
        raise DataError(
            f"{path}: lists of records stand under {', '.join(f'`{name}`' for name in lists)}",
            hint=f"say which one: `options: {{field: {lists[0]}}}`",
        )
    remarks.append(f"{path}: the records stand under `{lists[0]}`")
    return _questions(path, content[lists[0]], remarks)


def _questions(path: Path, records: list[Any], remarks: list[str]) -> list[Any]:
    """Make one record a question of articles in the layout of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    if not records or not all(isinstance(record, dict) and "paragraphs" in record for record in records):
        return records
    rows = []
    for number, article in enumerate(records, 1):
        try:
            rows += [
                {
                    "id": question.get("id"),
                    "title": article.get("title"),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": _answers(question),
                }
                for paragraph in article["paragraphs"]
                for question in paragraph["qas"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            cause = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path}: article {number} is none of SQuAD's: {cause}",
                hint="it needs paragraphs: [{context, qas: [{question, answers}]}]",
            ) from error
    remarks.append(f"{path}: read as SQuAD: {len(records)} articles, {len(rows)} questions")
    return rows


def _answers(question: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return texts and starts of a question's answers: objects, plain texts, or one of either; starts may be absent."""
    written = question.get("answers", question.get("answer"))
    entries = written if isinstance(written, list) else [] if written is None else [written]
    if len(entries) == 1 and isinstance(entries[0], dict) and isinstance(entries[0].get("text"), list):
        return {"text": entries[0]["text"], "answer_start": entries[0].get("answer_start", [])}
    objects = [entry if isinstance(entry, dict) else {"text": entry} for entry in entries]
    return {
        "text": [entry["text"] for entry in objects],
        "answer_start": [entry.get("answer_start") for entry in objects],
    }
