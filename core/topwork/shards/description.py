"""Descriptions of shared folders: `Description`, and `agree`, by which all processes that join do the same work.

The first process writes the description, exclusively; any other compares its own with it, so that predictions of two
models, or of two versions of the rows, never lie in one folder.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from topwork.errors import UsageError
from topwork.files import flush_to_disk, plain, refuse_address
from topwork.items import Json
from topwork.runs.fingerprints import fingerprints
from topwork.saving.checksum import check_checksum, digest, with_checksum
from topwork.saving.manifest import MANIFEST
from topwork.shards.parts import DESCRIPTION
from topwork.shards.stores import Store

#: rows of a shard, unless the number of shards is given
ROWS_OF_A_SHARD = 4096
#: shards that there are at least, as far as the rows go, so that several processes have something to do
_LEAST, _MOST = 16, 99_999


@dataclass(frozen=True)
class Description:
    """All that the results in a folder depend on.

    Args:
        kind: of the work.
        model: hash of the model folder's manifest, which holds the hashes of its other files.
        data: fingerprint of each source of rows; of a source that is no local file, its name.
        rows: how many there are.
        settings: options that change results.
        software: versions of what computes.
    """

    kind: str
    model: str
    data: Sequence[str]
    rows: int
    settings: Mapping[str, Json] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)

    def difference(self, stored: Mapping[str, Any]) -> str | None:
        """Return what differs in the description that a folder has, in words; None when nothing does."""
        for name, mine in plain(asdict(self)).items():
            theirs = stored.get(name)
            if mine == theirs:
                continue
            if isinstance(mine, dict) and isinstance(theirs, dict):
                key = next(key for key in [*mine, *theirs] if mine.get(key) != theirs.get(key))
                return f"`{key}` is {theirs.get(key)!r} there and {mine.get(key)!r} here"
            if name in ("rows", "kind"):
                return f"`{name}` is {theirs!r} there and {mine!r} here"
            return f"the {name} is another one"
        return None


def describe_model(folder: Path) -> str:
    """Return a hash of a model folder: of its manifest, and of weights whose hash the manifest does not hold."""
    files = [folder / MANIFEST]
    if '"sha256"' not in files[0].read_text(encoding="utf-8"):
        files += sorted(folder.rglob("*.safetensors"))
    return " ".join(digest(file) for file in files)


def describe_sources(paths: Sequence[str]) -> list[str]:
    """Return the fingerprint of each source of rows, or its name where it is no local file; order counts."""
    marks = fingerprints({str(index): {"path": path} for index, path in enumerate(paths)}, whole=True)
    return [marks.get(path, path) for path in paths]


def software() -> dict[str, str]:
    """Return the versions of topwork and of the libraries whose numbers go into results."""
    from importlib.metadata import version

    return {name: version(name) for name in ("topwork", "torch", "transformers")}


def agree(folder: Path | Store, mine: Description, shards: int | None) -> int:
    """Return the number of shards of a folder's work, and make this process part of it.

    Args:
        folder: shared by all processes; made when it is missing.
        mine: what this process is about to do.
        shards: how many the caller wants; None takes what the folder has, or a number that suits the rows.

    Raises:
        UsageError: the folder is for other work, or belongs to something else.
        CheckpointError: its description was changed.
    """
    files = _LocalDescription(folder) if isinstance(folder, Path) else _StoredDescription(folder)
    file = f"{folder}/{DESCRIPTION}"
    if not files.is_there():
        foreign = [name for name in files.names() if not name.startswith((".", DESCRIPTION))]
        if foreign and not files.is_there():  # else: made by another process, just now
            raise UsageError(
                f"there is `{foreign[0]}` in it already",
                place=str(folder),
                hint=f"give a new folder; a folder of shards has a {DESCRIPTION}",
            )
        count = min(shards or default_shards(mine.rows), max(1, mine.rows))
        content = plain(with_checksum({**asdict(mine), "shards": count}))
        files.create(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    try:
        stored = json.loads(files.read())
        count = int(stored["shards"])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the file is damaged ({error})", place=file, hint="give a new folder") from error
    check_checksum(stored, file)
    difference = mine.difference(stored)
    if difference is None and shards is not None and min(shards, max(1, mine.rows)) != count:
        difference = f"`shards` is {count} there and {shards} here"
    if difference is not None:
        hint = "give a new folder, or the command that began this one"
        raise UsageError(f"the folder is for other work: {difference}", place=str(folder), hint=hint)
    return count


def default_shards(rows: int) -> int:
    """Return a number of shards that suits so many rows."""
    return min(max(-(-rows // ROWS_OF_A_SHARD), _LEAST), _MOST, max(1, rows))


def rows_of_shard(rows: int, shards: int, index: int) -> range:
    """Return the indices of the rows of a shard; shards differ by at most one row."""
    return range(rows * index // shards, rows * (index + 1) // shards)


class _LocalDescription:
    """The file of a description in a folder that the system sees, which is made."""

    def __init__(self, folder: Path) -> None:
        refuse_address(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / DESCRIPTION

    def is_there(self) -> bool:
        return self.file.exists()

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def read(self) -> str:
        if not self.file.is_file():
            raise UsageError("it is no regular file", place=str(self.file), hint="give a new folder")
        return self.file.read_text(encoding="utf-8")

    def create(self, content: str) -> None:
        """Write the file unless there is one; it appears with all of its content."""
        whole = self.folder / f".{DESCRIPTION}.{uuid.uuid4().hex}"
        whole.write_text(content, encoding="utf-8")
        flush_to_disk(whole)
        try:
            os.link(whole, self.file)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not self.file.exists():
                os.replace(whole, self.file)
        finally:
            whole.unlink(missing_ok=True)


class _StoredDescription:
    """The file of a description in a store, which must create files exclusively."""

    def __init__(self, folder: Store) -> None:
        self.folder = folder
        folder.check()

    def is_there(self) -> bool:
        return self.folder.read(DESCRIPTION) is not None

    def names(self) -> list[str]:
        return self.folder.names()

    def read(self) -> str:
        return (self.folder.read(DESCRIPTION) or b"").decode(errors="replace")

    def create(self, content: str) -> None:
        """Write the file unless there is one."""
        self.folder.create(DESCRIPTION, content.encode())
