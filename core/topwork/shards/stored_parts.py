"""Finished shards in a store: `StoredParts`, the counterpart of `Parts` where no folder can be renamed.

A shard's files are uploaded under a name of their own. The shard is finished when the file `00017.json`, which holds
its record and says where they are, was created: exclusively, so of two results the first counts.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topwork.errors import CheckpointError
from topwork.files import plain
from topwork.items import Json
from topwork.saving.checksum import describe_files
from topwork.shards.parts import SEAL, Parts
from topwork.shards.stores import Store

_RECORD = ".json"


class StoredParts(Parts):
    """The finished shards of a folder of a store.

    Args:
        store: the folder.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._scratch = tempfile.TemporaryDirectory(prefix="topwork-shards-")
        super().__init__(Path(self._scratch.name))

    def location(self, index: int) -> str:
        """Return what names a shard in messages."""
        return f"{self.store}/{index:05d}{_RECORD}"

    def is_finished(self, index: int) -> bool:
        """Return whether a shard is finished."""
        return index in self._records or self._read(index) is not None

    def finished(self) -> list[int]:
        """Return the shards that are finished, in order."""
        names = [name.removesuffix(_RECORD) for name in self.store.names() if name.endswith(_RECORD)]
        return sorted(int(name) for name in names if name.isdigit())

    def publish(self, index: int, written: Path, counts: Mapping[str, Json]) -> bool:
        """Make a folder of files the result of a shard, with its record; return False when there is one already."""
        folder, files = uuid.uuid4().hex, describe_files(written)
        for name in files:
            self.store.upload(written / name, f"{folder}/{name}")
        record = json.dumps(plain({**counts, "files": files, "folder": folder}), ensure_ascii=False).encode()
        name = f"{index:05d}{_RECORD}"
        if self.store.create(name, record):
            return True
        if self._read(index) is None:  # of a process that died while it created it
            self.store.write(name, record)
            return True
        self.store.remove(folder)
        return False

    def record(self, index: int) -> dict[str, Any]:
        """Return the record of a finished shard.

        Raises:
            CheckpointError: it is damaged.
        """
        if index not in self._records:
            record = self._read(index)
            if record is None:
                raise self._damaged(index, "the record cannot be read")
            self._records[index] = record
        return self._records[index]

    def verified(self, index: int, name: str) -> Iterator[bytes]:
        """Yield the content of a file of a finished shard, and compare it with its record; nothing for a file without.

        Raises:
            CheckpointError: the file is not the one that was written.
        """
        import hashlib

        record = self.record(index)
        if name not in record["files"]:
            return
        content = hashlib.sha256()
        try:
            for block in self.store.blocks(f"{record['folder']}/{name}"):
                content.update(block)
                yield block
        except FileNotFoundError as error:
            raise self._damaged(index, f"the file {name} is missing") from error
        if content.hexdigest() != record["files"][name]["sha256"]:
            raise self._damaged(index, f"the file {name} is not the one that was written: its hash differs")

    def verify(self, index: int) -> Path:
        """Return a folder of this machine with the files of a finished shard, compared with the record."""
        folder = self.path(index)
        for name in self.record(index)["files"]:
            self.fetch(index, name, folder / name)
        return folder

    def fetch(self, index: int, name: str, target: Path) -> None:
        """Write a file of a finished shard to a place on this machine."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            out.writelines(self.verified(index, name))

    def seal(self, joined: Path) -> None:
        """Upload the files that all shards are together, and note their sizes and hashes."""
        known = describe_files(joined)
        for name in sorted(known, key=lambda name: (name == "result.json", name)):  # last, when all others are there
            self.store.parent.upload(joined / name, name)
        self.store.write(SEAL, json.dumps(known).encode())

    def is_sealed(self, joined: Path) -> bool:
        """Return whether the store has what all shards are together; result.json of it is then in `joined`."""
        try:
            known = json.loads(self.store.read(SEAL) or b"null")
            if not known or any(self.store.parent.size(name) != mark["size"] for name, mark in known.items()):
                return False
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        (joined / "result.json").write_bytes(self.store.parent.read("result.json") or b"")
        return True

    def sweep(self) -> None:
        """Remove what processes left that died while they wrote."""
        kept = {self.record(index)["folder"] for index in self.finished()}
        for name in self.store.names():
            if "." not in name and name not in kept:
                self.store.remove(name)

    def _read(self, index: int) -> dict[str, Any] | None:
        """Return the record of a shard; None when there is none, or none that can be read."""
        content = self.store.read(f"{index:05d}{_RECORD}")
        try:
            record = json.loads(content or b"null")
            return {**record, "files": dict(record["files"]), "folder": str(record["folder"])}
        except (ValueError, TypeError, KeyError):
            return None

    def _damaged(self, index: int, cause: str) -> CheckpointError:
        hint = f"remove {self.location(index)} and give the same command again"
        return CheckpointError(cause, place=self.location(index), hint=hint)
