"""Finished shards: `Parts`. Each is a folder that appears whole or not at all, with a record of its files' hashes.

A folder is renamed to its final name, which fails when there is one already: of two results the first counts.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topwork.errors import CheckpointError
from topwork.files import flush_to_disk, plain, write_json
from topwork.items import Json
from topwork.saving.checksum import describe_files, difference, digest

RECORD = "record.json"
#: describes the work in a folder
DESCRIPTION = "job.json"
#: beside the shards: what their union is, once it is written
SEAL = "joined.json"
#: what `rename` says of a target that is a folder with files
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.EACCES)


class Parts:
    """The finished shards of a folder.

    Args:
        folder: where they lie, as `00017` and so on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._records: dict[int, dict[str, Any]] = {}

    def path(self, index: int) -> Path:
        """Return the folder of a shard."""
        return self.folder / f"{index:05d}"

    def location(self, index: int) -> str:
        """Return what names a shard in messages."""
        return str(self.path(index))

    def is_finished(self, index: int) -> bool:
        """Return whether a shard is finished."""
        return (self.path(index) / RECORD).is_file()

    def finished(self) -> list[int]:
        """Return the shards that are finished, in order."""
        return sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())

    def scratch(self) -> Path:
        """Return a new folder in which a shard's files are written; `publish` takes it."""
        folder = self.folder / f".{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def publish(self, index: int, written: Path, counts: Mapping[str, Json]) -> bool:
        """Make a folder of files the result of a shard, with its record; return False when there is one already.

        Args:
            index: of the shard.
            written: from `scratch`; gone afterwards.
            counts: what the record holds beside the files.

        Raises:
            CheckpointError: a folder without a record is in its place.
        """
        files = describe_files(written)
        record = json.dumps(plain({**counts, "files": files}), indent=1, ensure_ascii=False)
        (written / RECORD).write_text(record + "\n", encoding="utf-8")
        flush_to_disk(written)
        try:
            os.rename(written, self.path(index))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if not self.is_finished(index):
                raise _damaged(self.path(index) / RECORD, "there is no record", self.path(index)) from error
            shutil.rmtree(written, ignore_errors=True)
            return False
        _flush_folder(self.folder)
        return True

    def record(self, index: int) -> dict[str, Any]:
        """Return the record of a finished shard.

        Raises:
            CheckpointError: it is damaged.
        """
        if index not in self._records:
            file = self.path(index) / RECORD
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                self._records[index] = {**record, "files": dict(record["files"])}
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise _damaged(file, f"the record cannot be read ({error})", self.path(index)) from error
        return self._records[index]

    def verified(self, index: int, name: str) -> Iterator[bytes]:
        """Yield the content of a file of a finished shard, and compare it with its record; nothing for a file without.

        Raises:
            CheckpointError: the file is not the one that was written.
        """
        import hashlib

        known = self.record(index)["files"].get(name)
        if known is None:
            return
        file, content = self.path(index) / name, hashlib.sha256()
        if not file.is_file():  # a pipe would be waited for
            raise _damaged(file, "the file is missing", self.path(index))
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                content.update(block)
                yield block
        if content.hexdigest() != known["sha256"]:
            raise _damaged(file, "the file is not the one that was written: its hash differs", self.path(index))

    def verify(self, index: int) -> Path:
        """Return the folder of a finished shard after having compared all of its files with the record.

        Raises:
            CheckpointError: a file is not the one that was written.
        """
        for name in self.record(index)["files"]:
            for _ in self.verified(index, name):
                pass
        return self.path(index)

    def fetch(self, index: int, name: str, target: Path) -> None:
        """Put a file of a finished shard to another place; where the file system can, it takes no more space."""
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        file = self.path(index) / name
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)

    def seal(self, joined: Path) -> None:
        """Note size and hash of the files that all shards are together, once they are written.

        Args:
            joined: the folder that holds them.
        """
        files = [file for file in sorted(joined.iterdir()) if file.is_file() and file.name != DESCRIPTION]
        known = {file.name: {"size": file.stat().st_size, "sha256": digest(file)} for file in files}
        write_json(self.folder / SEAL, known)

    def is_sealed(self, joined: Path) -> bool:
        """Return whether the files that all shards are together are those that were noted: whoever looks joins anew."""
        if not (self.folder / SEAL).is_file():
            return False
        try:
            known = dict(json.loads((self.folder / SEAL).read_text(encoding="utf-8")))
            return bool(known) and all(difference(joined / name, mark) is None for name, mark in known.items())
        except (ValueError, TypeError, KeyError):
            return False

    def sweep(self) -> None:
        """Remove what processes left that died while they wrote."""
        for folder in self.folder.glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)


def _damaged(file: Path, cause: str, part: Path) -> CheckpointError:
    return CheckpointError(cause, place=str(file), hint=f"remove the folder {part} and give the same command again")


def _flush_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
