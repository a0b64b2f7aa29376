"""Text of files: unpacked within bounds, decoded, with its byte order mark understood.

Entry points: `open_text`, and `parse_json` for one value. Tables are read in `tables`, records of JSON in `records`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from topwork import DataError, UsageError

#: suffixes of packed files
PACKED = {".gz", ".bz2", ".xz", ".zst", ".lz4"}
#: a file that grows by more than this when it is unpacked, beyond the first bytes, is refused
MOST_GROWTH, FIRST_BYTES = 100, 64 * 2**20
#: whole numbers of more digits are names, whatever reads them
_MOST_DIGITS = 4000
#: how files begin that are no text, whatever their name says
_BINARY = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"PAR1": "a parquet file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a zstd file",
    b"ARROW1": "an arrow file",
    b"%PDF": "a PDF",
    b"SQLite format 3": "a database",
}
_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype html", b"<html")
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def most_bytes(path: Path) -> int:
    """Return how many bytes a packed file may have when it is unpacked."""
    return max(FIRST_BYTES, MOST_GROWTH * path.stat().st_size)


def grown_beyond_reason(
    path: Path, count: int, mend: str = "unpack it yourself and name the unpacked file"
) -> DataError:
    """Return the error for a file that has too many bytes when it is unpacked; `mend` is for those who trust it."""
    return DataError(
        f"{path}: unpacked it is more than {count // 2**20} MB, {MOST_GROWTH} times its size",
        hint=f"if it can be trusted, {mend}",
    )


class Bounded(io.RawIOBase):
    """A file that is unpacked while it is read, as long as it does not grow beyond reason.

    Args:
        file: gives unpacked bytes.
        path: of the packed file.

    Raises:
        DataError: while reading, when it grows more than a hundredfold, or is damaged.
    """

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.path, self.count = file, path, 0
        self.most = most_bytes(path)

    def readable(self) -> bool:
        """Return True, as `io.RawIOBase` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes and return their number.

        Raises:
            DataError: a damaged archive, or far more bytes than its size makes likely.
        """
        try:
            data = self.file.read(len(buffer))
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise DataError(f"{self.path}: cannot be unpacked: {error}", hint="pack it again") from error
        self.count += len(data)
        if self.count > self.most:
            raise grown_beyond_reason(self.path, self.count)
        buffer[: len(data)] = data
        return len(data)


def check_regular(path: Path) -> None:
    """Refuse what is neither a file nor a folder: reading a pipe or a device may never end.

    Raises:
        UsageError: a pipe, a socket, a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"`{path}` is no regular file", hint="write its content to a file")


def _unpacked(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix not in PACKED:
        return path.open("rb")
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if suffix not in openers:
        try:
            if suffix == ".zst":
                import zstandard

                file: Any = zstandard.open(path, "rb")
            else:
                import lz4.frame

                file = lz4.frame.open(path, "rb")
        except ImportError as error:
            raise UsageError(
                f"`{path}` cannot be unpacked here: {error}", hint="unpack it, or pack it with gzip"
            ) from error
    else:
        file = openers[suffix](path, "rb")
    return io.BufferedReader(Bounded(file, path), 2**20)


def encoding_of(path: Path, requested: str | None, remarks: list[str]) -> str:
    """Return the encoding of a file: the requested one, that of its byte order mark, or UTF-8.

    Raises:
        UsageError: an unknown encoding is requested.
    """
    import codecs

    with _unpacked(path) as file:
        start = file.read(64)
    _check_beginning(path, start)
    if requested is not None:
        try:
            codecs.lookup(requested)
        except LookupError as error:
            raise UsageError(f"unknown encoding `{requested}`", hint="write utf-8, latin-1, cp1252 ...") from error
        return requested
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            if encoding != "utf-8-sig":
                remarks.append(f"{path}: read as {encoding}, by its byte order mark")
            return encoding
    return "utf-8"


def _check_beginning(path: Path, start: bytes) -> None:
    """Refuse what is no text: a packed file with another name, a pointer in place of a file, a page of an error.

    Raises:
        DataError: with what it is.
    """
    kind = next((name for magic, name in _BINARY.items() if start.startswith(magic)), None)
    if kind is not None:
        raise DataError(f"{path}: is {kind}, whatever its name says", hint="unpack it, or give it the right suffix")
    if start.startswith(_POINTER):
        raise DataError(f"{path}: is a pointer of Git LFS, not the file", hint="fetch the file: `git lfs pull`")
    if path.suffix.lower() not in (".txt", ".html") and start.lstrip().lower().startswith(_PAGES):
        raise DataError(f"{path}: is a web page, not rows", hint="fetch the file again, and look at it")


def common_encoding(paths: Sequence[Path]) -> str:
    """Return the encoding of files that are read together, by their byte order marks; UTF-8 where none has one.

    Raises:
        DataError: files of two encodings.
    """
    for path in paths:
        check_regular(path)
    encodings = {path: encoding_of(path, None, []).removesuffix("-sig") for path in paths}
    first, *others = encodings
    other = next((path for path in others if encodings[path] != encodings[first]), None)
    if other is not None:
        raise DataError(
            f"{other}: read as {encodings[other]}, {first} as {encodings[first]}", hint="write all files alike"
        )
    return "utf-8-sig" if encodings[first] == "utf-8" else encodings[first]


def check_unpacked(paths: Sequence[Path]) -> None:
    """Unpack packed files once, keeping nothing.

    Raises:
        DataError: a damaged archive, or one that grows beyond reason.
    """
    for path in paths:
        if path.suffix.lower() in PACKED:
            with _unpacked(path) as file:
                while file.read(2**20):
                    pass


def read_through(path: Path, encoding: str | None) -> None:
    """Decode a whole file, keeping nothing.

    Raises:
        DataError: text in another encoding; the error names the line.
    """
    with open_text(path, encoding, []) as file:
        while file.read(2**20):
            pass


@contextmanager
def open_text(path: Path, encoding: str | None, remarks: list[str]) -> Iterator[IO[str]]:
    """Open a text file, packed or not; line ends stay as they are.

    Args:
        path: the file.
        encoding: None detects it.
        remarks: takes a line about what was detected.

    Raises:
        DataError: inside the block, text in another encoding; the error names the line and `options: {encoding: ...}`.
    """
    check_regular(path)
    chosen = encoding_of(path, encoding, remarks)
    try:
        with _unpacked(path) as binary, io.TextIOWrapper(binary, encoding=chosen, newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise _undecodable(path, chosen, error) from error


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    with _unpacked(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as fault:
                near = line[max(0, fault.start - 12) : fault.start + 12].decode("cp1252", "replace").strip()
                return DataError(
                    f"{path}:{number}: not {encoding.upper().replace('UTF-8-SIG', 'UTF-8')} ({fault.reason})",
                    hint=f"say how it is written: `options: {{encoding: cp1252}}` would read `{near}`",
                )
    return DataError(
        f"{path}: not {encoding}: {error.reason}", hint="say how it is written: `options: {encoding: ...}`"
    )


# ---------------------------------------------------------------- JSON


def parse_json(path: Path, number: int, text: str) -> Any:
    """Return the value of a text of JSON; whole numbers of thousands of digits stay text.

    Args:
        path: of the file, for errors.
        number: line of the file on which the text begins.
        text: one value.

    Raises:
        DataError: no JSON, a number too large for a float, lists too deep.
    """
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise DataError(f"{path}:{line}: {error.msg} (column {error.colno})", hint="correct the file") from error
    except OverflowError as error:
        line = number + text[: max(text.find(str(error)), 0)].count("\n")
        raise DataError(
            f"{path}:{line}: {_short(str(error))} is larger than a number can be", hint="write it as a string"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}:{number}: lists or objects are too deep", hint="flatten them") from error


def _integer(text: str) -> int | str:
    return int(text) if len(text) < _MOST_DIGITS else text


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise OverflowError(text)
    return value


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}… ({len(text)} characters)"
