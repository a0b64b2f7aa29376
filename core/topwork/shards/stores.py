"""Shared folders by address: `shared_folder`, and `Store`, a folder of a store that fsspec reaches.

Shards need one thing of a store that not all have: to create a file only where there is none, so that of two processes
exactly one does. `file://` names a folder of this machine and is used as such.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from topwork.errors import UsageError

#: stores that create files exclusively: their names in addresses
EXCLUSIVE = ("memory", "s3", "s3a", "gs", "gcs")
LOCAL = ("file", "local")
_BLOCK = 2**20


def shared_folder(folder: str | Path) -> Path | Store:
    """Return the folder that a path or an address names.

    Raises:
        UsageError: the store cannot be used for shards; says why.
    """
    scheme, separator, rest = str(folder).partition("://")
    if not separator:
        return Path(folder)
    if scheme not in LOCAL:
        return Store(str(folder).rstrip("/"))
    if not rest.startswith("/"):
        raise UsageError(f"`{folder}` names no absolute path", place="--output", hint=f"write {scheme}:///path")
    return Path(rest)


class Store:
    """Folder of a store, whose files are reached by name.

    Args:
        address: of the folder, such as `s3://bucket/predictions`.

    Raises:
        UsageError: the store creates no file exclusively, or cannot be reached.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self.address, scheme = address, address.partition("://")[0]
        if scheme not in EXCLUSIVE or "::" in address:
            cause = f"`{scheme}` is not known to create a file only where there is none, by which shards are taken"
            hint = f"give a folder, or an address of {', '.join(f'{name}://' for name in (*LOCAL, *EXCLUSIVE))}"
            raise UsageError(cause, place=address, hint=hint)
        with self._explaining():
            self.files, path = fsspec.core.url_to_fs(address)
            self.path = str(path)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Store:
        """Return a folder in this one."""
        return Store(f"{self.address}/{name}")

    @property
    def parent(self) -> Store:
        """The folder that this one lies in."""
        return Store(self.address.rpartition("/")[0])

    def check(self) -> None:
        """Refuse a store of which a try shows that it replaces files.

        Raises:
            UsageError: it does, or nothing can be written.
        """
        name = f".{uuid.uuid4().hex}"
        created = [self.create(name, b"first"), self.create(name, b"second")]
        content = self.read(name)
        self.remove(name)
        if created != [True, False] or content != b"first":
            cause = "the store replaces a file that is there, so processes cannot share shards by it"
            raise UsageError(cause, place=self.address, hint="give a folder that is mounted")

    def names(self) -> list[str]:
        """Return the names of the files and folders in this one."""
        with self._explaining():
            self.files.invalidate_cache()
            try:
                listed = self.files.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        return sorted({PurePosixPath(str(name)).name for name in listed} - {PurePosixPath(self.path).name})

    def create(self, name: str, content: bytes) -> bool:
        """Create a file, or return False when there is one."""
        with self._explaining():
            try:
                with self.files.open(self._at(name), "xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
        return True

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None when there is none."""
        with self._explaining():
            self.files.invalidate_cache()
            try:
                return bytes(self.files.cat_file(self._at(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whether or not there is one."""
        with self._explaining():
            self.files.pipe_file(self._at(name), content)

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""
        with self._explaining(), suppress(FileNotFoundError):
            self.files.rm(self._at(name), recursive=True)

    def upload(self, file: Path, name: str) -> None:
        """Write a file of this machine into the store."""
        with self._explaining(), file.open("rb") as source, self.files.open(self._at(name), "wb") as target:
            while block := source.read(_BLOCK):
                target.write(block)

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.files.open(self._at(name), "rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def size(self, name: str) -> int | None:
        """Return the size of a file; None when there is none."""
        with self._explaining():
            self.files.invalidate_cache()
            try:
                return int(self.files.size(self._at(name)))
            except FileNotFoundError:
                return None

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn whatever a store's package raises into an error that names the address."""
        try:
            yield
        except (UsageError, FileNotFoundError, FileExistsError):
            raise
        except ImportError as error:
            scheme = self.address.partition("://")[0]
            hint = f"install the package by which fsspec reaches `{scheme}://`"
            raise UsageError(f"the store cannot be reached: {error}", place=self.address, hint=hint) from error
        except Exception as error:
            cause = " ".join(str(error).split())[:300] or type(error).__name__
            hint = "check the address and the rights to write there"
            raise UsageError(f"the store cannot be used: {cause}", place=self.address, hint=hint) from error
