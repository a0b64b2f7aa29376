"""Fingerprints of local files: of those that rows come from (`fingerprints`), and of any path (`fingerprint`).

Rows of the Hub have their `revision` instead.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from topwork.data.addresses import is_address, version_of
from topwork.files import expanded
from topwork.items import Json
from topwork.saving.checksum import digest

#: bytes at both ends of a file that are read; between them its size speaks for it
_READ = 32 * 2**20
#: address of a local file
_FILE = "file://"
#: files of a folder that are listed
_LISTED = 100_000


def fingerprints(data: Mapping[str, Json], *, whole: bool = False) -> dict[str, str]:
    """Return a fingerprint for each path of local rows.

    A file is known by its content: all of it up to 64 MB, else both ends and the size. A folder is known by names and
    sizes of its files. Times do not count: copies are equal.

    Args:
        data: the section `data` of a recipe, written out.
        whole: read all of each file, however large it is.
    """
    paths = [rows["path"] for rows in data.values() if isinstance(rows, dict) and isinstance(rows.get("path"), str)]
    known = {path: fingerprint(path, whole=whole) for path in dict.fromkeys(paths)}
    return {path: mark for path, mark in known.items() if mark is not None}


def fingerprint(path: str, *, whole: bool = False) -> str | None:
    """Return the fingerprint of a path; None for no file or folder: a sample, a name on the Hub, a device.

    Of an address of a store it is made of what the store says of its files.
    """
    if is_address(path) and not path.startswith(_FILE):
        return version_of(path)
    local = expanded(path.removeprefix(_FILE))
    try:
        if glob.has_magic(path):
            files = [Path(name) for name in sorted(glob.glob(str(local), recursive=True))]
        else:
            files = [local]
        marks = [_of_folder(file) if file.is_dir() else _of_file(file, whole) for file in files if file.exists()]
    except (OSError, ValueError):
        return None
    marks = [mark for mark in marks if mark]
    return hashlib.sha256("".join(marks).encode()).hexdigest() if marks else None


def _of_file(file: Path, whole: bool) -> str:
    if not file.is_file():
        return ""
    size = file.stat().st_size
    if whole and size > 2 * _READ:
        return f"{size}:{digest(file)}"
    content = hashlib.sha256()
    with file.open("rb") as stream:
        content.update(stream.read(_READ))
        if size > 2 * _READ:
            stream.seek(-_READ, os.SEEK_END)
        content.update(stream.read(_READ))
    return f"{size}:{content.hexdigest()}"


def _of_folder(folder: Path) -> str:
    names = hashlib.sha256()
    count = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            file = Path(parent) / name
            names.update(f"{file.relative_to(folder)}:{file.stat().st_size}\n".encode(errors="surrogateescape"))
            count += 1
        if count > _LISTED:
            break
    return f"{count}:{names.hexdigest()}"
