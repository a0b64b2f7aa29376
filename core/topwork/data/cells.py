"""Cells of tables: from text as it was written to the values that the kind of a column asks for.

Entry point: `reader`. Tables whose cells are text (csv, tsv) keep every character until a column of a task says what it
wants; typed sources (json, parquet, Python) are only touched where their type is a container's accident. Names of
labels and their order are the business of tasks.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from topwork.errors import DataError

if TYPE_CHECKING:
    from topwork.task import Column

#: kinds whose cells are JSON when a table holds text
STRUCTURES = ("spans", "boxes", "messages", "answers", "segments", "texts")
_MEDIA = (".jpg", ".png", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".wav", ".flac", ".mp3", ".ogg", ".npy")
#: suffixes that a table may leave out of the names of files
_SUFFIXES = tuple(suffix for lower in _MEDIA for suffix in (lower, lower.upper()))
#: kinds whose cells name files
FILES = ("image", "audio", "mask", "depth", "file")
_MARKS = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False, "": False}
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_NUMPY_STRINGS = re.compile(rf"\s*\[\s*(?:{_STRING.pattern})(?:\s+(?:{_STRING.pattern}))+\s*\]\s*", re.DOTALL)
_NUMPY_INTEGERS = re.compile(r"\s*\[\s*-?\d+(?:\s+-?\d+)+\s*\]\s*")
_NUMPY_ARRAY = re.compile(r"\barray\((\[[^()]*\])(?:,\s*dtype=[^()]*)?\)")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
#: Python converts no text of more digits to an integer (4,300 by default)
_MOST_DIGITS = 4000


def is_integer(text: str) -> bool:
    """Return True if the text is an integer as a program would write it: `7` and `-1`, not `007`, `1.0` or `+1`.

    Thousands of digits are a name.
    """
    return _INTEGER.fullmatch(text) is not None and len(text) < _MOST_DIGITS


def reader(column: Column, name: str, cells: Iterable[Any] | None) -> Callable[[Any], Any] | None:
    """Return the function that turns a cell of text into a value of the column's kind; None if text is right.

    Args:
        column: what the task reads.
        name: of the column, for errors.
        cells: all cells of the column, for kinds that are decided once for a column; None when they are not known.

    Example:
        >>> from topwork.task import Column
        >>> reader(Column("words of a text", kind="words"), "words", None)('["a", "b"]')
        ['a', 'b']
    """
    kind = column.kind
    if kind in ("label", "labels"):
        return int_or_none if _all_integers(cells) else None
    if kind == "any":
        return _guessed(cells)
    if kind == "number":
        return partial(_number, name)
    if kind in ("words", "tags"):
        return partial(_listed, name)
    if kind in STRUCTURES:
        return partial(_structure, name, kind == "answers")
    return None


def int_or_none(text: Any) -> Any:
    """Return the integer of a canonical text; anything else as it is."""
    return int(text) if isinstance(text, str) and is_integer(text) else text


def float_or_none(text: Any) -> Any:
    """Return the number that a text writes; anything else as it is."""
    return float(text) if isinstance(text, str) else text


def _all_integers(cells: Iterable[Any] | None) -> bool:
    if cells is None:
        return False
    present = [cell for cell in cells if cell is not None]
    if not all(isinstance(cell, str) for cell in present):  # values already: lists made of several columns
        return False
    return bool(present) and all(is_integer(cell) for cell in set(present))


def _guessed(cells: Iterable[Any] | None) -> Callable[[Any], Any] | None:
    """Return the reader of a column without a kind: numbers where every cell is the plain writing of one."""
    if cells is None:
        return None
    present = [cell for cell in cells if cell is not None]
    if not present:
        return None
    if all(map(is_integer, present)):
        return int_or_none
    return float_or_none if all(is_integer(cell) or _is_plain_float(cell) for cell in present) else None


def _is_plain_float(text: str) -> bool:
    if not re.fullmatch(r"-?[0-9]+\.[0-9]+(e-?[0-9]+)?", text):
        return False
    return math.isfinite(float(text))


def _number(name: str, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return float(text)
    except ValueError:
        hint = "write a point for the decimals" if re.fullmatch(r"\s*-?\d+,\d+\s*", text) else "correct the cell"
        raise DataError(f"{text!r} is no number", column=name, hint=hint) from None


def _listed(name: str, text: Any) -> Any:
    """Return a list of strings: from JSON, from Python's writing of a list, or words with spaces between them."""
    if not isinstance(text, str):
        return text
    if text.lstrip().startswith("["):
        value = list_in_text(text)
        if value is None:
            raise DataError(f"{text[:60]!r} is no list", column=name, hint='write it as ["a", "b"]')
        return value
    return text.split()


def _structure(name: str, plain_text: bool, text: Any) -> Any:
    """Return lists and dicts from JSON, or from Python's writing of them."""
    if not isinstance(text, str):
        return text
    if text.lstrip()[:1] not in ("[", "{"):
        if plain_text:
            return text
        raise DataError(f"{text[:60]!r} is no JSON", column=name, hint="write a list or an object as JSON")
    return _literal(name, text)


def _literal(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _python_value(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise DataError(f"{text[:60]!r} is no JSON", column=name, hint='write lists as ["a", "b"]') from None


def list_in_text(text: str) -> list[Any] | None:
    """Return the list that a text writes, as JSON, as Python does or as numpy does; None if it writes none.

    Example:
        >>> list_in_text('["a", "b"]') == list_in_text("['a', 'b']") == list_in_text("['a' 'b']")
        True
    """
    for read in (json.loads, _python_value):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = read(text)
            if isinstance(value, list):
                return value
    return None


def value_in_text(text: str) -> Any:
    """Return the value that a text writes as JSON or as Python does; None if it writes none."""
    for read in (json.loads, _python_value):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(text)
    return None


def mark_of(value: Any) -> bool | None:
    """Return whether a cell marks a label of its row; None for a cell that is neither 0 nor 1."""
    return _MARKS.get("" if value is None else str(value).strip().lower())


def _python_value(text: str) -> Any:
    """Return the value of a literal of Python, or of numpy's, which has no commas: `['a' 'b']`, `array([1, 2])`.

    Python reads `'a' 'b'` as one string.

    Raises:
        ValueError, SyntaxError, MemoryError, RecursionError: it is none.
    """
    if _NUMPY_STRINGS.fullmatch(text):
        return [ast.literal_eval(string) for string in _STRING.findall(text)]
    if _NUMPY_INTEGERS.fullmatch(text):
        return [int(number) for number in text.strip()[1:-1].split()]
    return ast.literal_eval(_NUMPY_ARRAY.sub(r"\1", text))


def _in_another_form(path: str) -> str | None:
    """Return the file that a name means in another Unicode form, or without its suffix; None where there is none."""
    forms = dict.fromkeys((path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))))
    candidates = (form + suffix for form in forms for suffix in ("", *_SUFFIXES))
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def resolved(folder: str, value: Any) -> Any:
    """Return a cell that names a file with the path relative to its table's folder, where the file lies there.

    A relative path that exists only from the working folder stays as it is; of one that exists nowhere the path beside
    the table is kept, so that the error names it in full. A backslash divides folders where no such file exists; a name
    may lack its suffix, or have another Unicode form than that of the file.
    """
    text = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else value
    if not isinstance(text, str) or not text or "://" in text:
        return value
    path = os.path.expanduser(text)
    if not os.path.isabs(path):
        beside = os.path.join(folder, path)
        if "\\" in path and not os.path.exists(beside):
            path = path.replace("\\", "/")
            beside = os.path.join(folder, path)
        if not os.path.exists(beside):
            beside = _in_another_form(beside) or beside
        path = path if not os.path.exists(beside) and os.path.exists(path) else os.path.abspath(beside)
    return {**value, "path": path} if isinstance(value, dict) else path
