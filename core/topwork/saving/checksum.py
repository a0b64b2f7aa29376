"""Sizes and hashes of files: `describe_files` when they are written, `difference` before they are used again.

A file that lists the hashes of others has one inside itself as well: `with_checksum` before it is written,
`check_checksum` after it was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from topwork.errors import CheckpointError
from topwork.files import plain
from topwork.items import Json

CHECKSUM = "checksum"


def digest(file: Path) -> str:
    """Return the SHA-256 hash of a file as hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def describe_files(folder: Path, chosen: Callable[[Path], bool] = lambda _: True) -> dict[str, Json]:
    """Return size and hash of every file of a folder, by path relative to it.

    Args:
        folder: with its folders.
        chosen: says which files count; by default all.
    """
    return {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and chosen(file)
    }


def difference(file: Path, known: Mapping[str, Any]) -> str | None:
    """Say how a file differs from what `describe_files` said of it when it was written; None when it does not.

    Returns:
        words that follow "the file": "is missing", "was changed" and the like.
    """
    if not file.is_file():  # a pipe would be waited for
        return "is missing" if not file.exists() else "is no regular file"
    size = file.stat().st_size
    if size != known["size"]:
        return f"was cut short or changed: {size} bytes, {known['size']} were written"
    return None if digest(file) == known["sha256"] else "was changed"


def with_checksum(content: Mapping[str, Json]) -> dict[str, Json]:
    """Return a mapping with the key `checksum`: the SHA-256 hash of all other entries.

    Example:
        >>> sorted(with_checksum({"format": 1}))
        ['checksum', 'format']
    """
    return {**content, CHECKSUM: _hash(content)}


def check_checksum(content: Mapping[str, Json], file: str | Path) -> None:
    """Compare a mapping with its checksum; one without, as earlier versions wrote it, passes.

    Args:
        content: what was read.
        file: where it was read from, for the message.

    Raises:
        CheckpointError: an entry was changed.
    """
    if CHECKSUM in content and content[CHECKSUM] != _hash(content):
        raise CheckpointError(
            "the file is not the one that was written: its content differs from its checksum",
            place=str(file),
            hint=f"copy it again; whoever changes it on purpose takes the entry `{CHECKSUM}` out",
        )


def _hash(content: Mapping[str, Json]) -> str:
    entries = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(plain(entries), sort_keys=True).encode()).hexdigest()
