"""Writing of files whole or not at all: under a temporary name beside the target, flushed, then renamed.

Entry points: `write_whole`, `write_text`, `write_json`; `remove_folder` removes as wholly. What a process that was
killed meanwhile leaves behind has names of its own, and goes by `remove_partial`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from topwork.errors import UsageError
from topwork.items import Json

#: end of the names of what is being written or removed
PARTIAL = ".partial"
_LEFT = f".*.*{PARTIAL}"


#: `s3://bucket/runs`, also as a Path has it (`s3:/bucket/runs`); one letter is a drive of Windows
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@contextmanager
def write_whole(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, whose file or folder becomes `target` when the block ends well.

    A folder that was at `target` is replaced. When the block fails, `target` is as it was. A device, a pipe or a socket
    is never replaced.

    Raises:
        UsageError: there is something at `target` that is no file and no folder, or it is an address.

    Example:
        >>> with write_whole(Path("scores.csv")) as temporary:  # doctest: +SKIP
        ...     temporary.write_text("row,score")
    """
    refuse_address(target)
    if exists(target) and not target.is_file() and not target.is_dir():
        raise UsageError(f"`{target}` is no file and no folder: it cannot be replaced", hint="name a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent)) / target.name
    try:
        yield temporary
        flush_to_disk(temporary)
        if temporary.is_dir() and target.is_dir():
            old = temporary.parent / "replaced"
            target.rename(old)
            try:
                os.replace(temporary, target)
            except BaseException:
                old.rename(target)
                raise
        else:
            os.replace(temporary, target)
    except OSError as error:
        name_file(error, target)
        raise
    finally:
        shutil.rmtree(temporary.parent, ignore_errors=True)


def refuse_address(target: str | Path) -> None:
    """Refuse the address of a store, such as `s3://bucket/runs`, where a path is written: it would become a folder.

    Raises:
        UsageError: it is no path.
    """
    scheme = _ADDRESS.match(str(target))
    if scheme and not Path(f"{scheme[1]}:").is_dir():
        raise UsageError(
            f"`{target}` is an address, and no path of a file or folder",
            hint="mount the store, and give the path where it is mounted",
        )


def name_file(error: OSError, file: Path) -> None:
    """Let an error of a full disk say which file was written: the system does not when `write` fails."""
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error.filename = str(file)


def expanded(path: str | Path) -> Path:
    """Return a path with `~` and `~user` replaced; unchanged where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def exists(path: Path) -> bool:
    """Return whether there is a file or folder; False also for a path that the system cannot take (too long)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_readable(path: Path) -> bool:
    """Return whether a path can be read to an end: a regular file, or what the shell hands over (`<(...)`, stdin).

    Reading another pipe waits for whoever writes it, and a device may have no end.
    """
    return path.is_file() or str(path) == "/dev/stdin" or str(path).startswith(("/dev/fd/", "/proc/self/fd/"))


def write_failure(folder: Path) -> OSError | None:
    """Return the system's error when a megabyte cannot be written into a folder; None when it can.

    For libraries that report a failed write without saying why, such as `torch.save`.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def remove_folder(folder: Path) -> None:
    """Remove a folder, for whoever looks at once: it is renamed first. What cannot be removed stays."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    with suppress(OSError):
        os.replace(folder, hidden)
        folder = hidden
    shutil.rmtree(folder, ignore_errors=True)


def remove_partial(folder: Path, *, deep: bool = True) -> None:
    """Remove what processes that were killed were writing or removing.

    Args:
        folder: a folder that the caller holds alone.
        deep: look into the folders below it too.
    """
    for path in list(folder.rglob(_LEFT) if deep else folder.glob(_LEFT)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """Write a file, or all files of a folder, from the system's memory to the disk."""
    for entry in path.rglob("*") if path.is_dir() else [path]:
        if entry.is_file():
            with entry.open("rb") as file:
                os.fsync(file.fileno())


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all (UTF-8)."""
    with write_whole(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Json) -> None:
    """Write JSON, whole or not at all. NaN and infinities become null: JSON has none."""
    write_text(target, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def plain(value: Any) -> Json:
    """Return the value as JSON: numpy and torch numbers and arrays become plain ones, paths strings, NaN null."""
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")
