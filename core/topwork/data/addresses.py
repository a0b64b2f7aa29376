"""Rows by address: files of any store that fsspec reads, such as `s3://bucket/rows/*.parquet`, as local copies.

Copies are read as any local file is, so cells have the same types wherever the rows lie. A copy is kept as long as the
store has the same version of the file. `file://` needs no copy; http, https and hf are read by `datasets`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from topwork.errors import UsageError

#: read by `datasets` itself
_READ_ELSEWHERE = ("http", "https", "hf")
#: by which stores tell versions of a file, the surest first
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "md5", "content_md5", "sha", "CRC", "generation", "checksum"),
    *("mtime", "modify", "LastModified", "last_modified", "updated", "modified", "created"),
)


def is_address(path: str) -> bool:
    """Return whether a path of rows is the address of a store that fsspec knows by name."""
    scheme, separator, _ = path.partition("://")
    if not separator or scheme in _READ_ELSEWHERE:
        return False
    import fsspec

    return scheme in fsspec.available_protocols()


def local_path(address: str) -> str:
    """Return a file, a folder or a glob that has what an address names: on this machine, copied where it must be.

    Raises:
        UsageError: nothing is there, the store cannot be read, or the package that reads it is missing.
    """
    with _explaining(address):
        store, path = _store(address)
        if _is_local(address, store):
            return path
        files = _files(store, path)
        if not files:
            raise UsageError(f"there is no file at `{address}`", place="rows", hint="check the address")
        kept = _copies() / _digest([address, *(_version(store, file) for file in files.values())])
        if not kept.is_dir():
            _copy(store, files, kept)
    if store.isfile(path):
        return str(kept / next(iter(files)))
    return f"{glob.escape(str(kept))}/*/*" if glob.has_magic(path) else str(kept)


def version_of(address: str) -> str:
    """Return what tells the content of the files at an address from that of others, without reading them if possible.

    Raises:
        UsageError: as of `local_path`.
    """
    with _explaining(address):
        store, path = _store(address)
        return _digest([f"{name} {_version(store, file)}" for name, file in _files(store, path).items()])


def _store(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    store, path = url_to_fs(address)
    store.invalidate_cache()
    return store, str(path)


def _is_local(address: str, store: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(store, LocalFileSystem) and "::" not in address


def _files(store: Any, path: str) -> dict[str, str]:
    """Return name of the copy -> path in the store, in order: of one file, of a folder, of what matches a glob."""
    if glob.has_magic(path):
        matching = sorted(file for file in store.glob(path) if store.isfile(file))
        return {f"{index:06d}/{PurePosixPath(file).name}": file for index, file in enumerate(matching)}
    if store.isfile(path):
        return {PurePosixPath(path).name: path}
    base = PurePosixPath("/" + path.strip("/"))
    matching = sorted(store.find(path)) if store.exists(path) else []
    return {PurePosixPath("/" + file.strip("/")).relative_to(base).as_posix(): file for file in matching}


def _version(store: Any, file: str) -> str:
    """Return the version of a file as its store tells it; of one that tells none, a hash of the content."""
    info = store.info(file)
    known = next((key for key in _VERSIONS if info.get(key) not in (None, "")), None)
    if known is not None:
        return f"{info.get('size')} {known} {info[known]}"
    content = hashlib.sha256()
    with store.open(file, "rb") as stream:
        while block := stream.read(2**20):
            content.update(block)
    return content.hexdigest()


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def _copies() -> Path:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "stores"


def _copy(store: Any, files: dict[str, str], kept: Path) -> None:
    """Copy files of a store into a folder, which appears whole or not at all; of two processes one wins."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", dir=kept.parent))
    try:
        for name, file in files.items():
            if ".." in PurePosixPath(name).parts:
                raise UsageError(f"the name `{file}` leads out of its folder", place="rows", hint="rename the file")
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            store.get_file(file, str(made / name))
        os.rename(made, kept)
    except OSError:
        if not kept.is_dir():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _explaining(address: str) -> Iterator[None]:
    """Turn whatever a store's package raises into an error that names the address."""
    scheme = address.partition("://")[0]
    try:
        yield
    except UsageError:
        raise
    except ImportError as error:
        hint = f"install the package that fsspec reads `{scheme}://` with, or copy the files"
        raise UsageError(f"`{address}` cannot be read: {error}", place="rows", hint=hint) from error
    except FileNotFoundError as error:
        raise UsageError(f"there is no file at `{address}`", place="rows", hint="check the address") from error
    except Exception as error:
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        hint = "check the address and the rights to read it"
        raise UsageError(f"`{address}` cannot be read: {cause}", place="rows", hint=hint) from error
