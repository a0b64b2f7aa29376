"""A lock on a folder: `locking`, and whether another process holds it: `is_running`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topwork.errors import UsageError

#: descriptors of the folders that this process holds
_held: set[int] = set()


@contextmanager
def locking(folder: Path) -> Iterator[None]:
    """Hold a folder alone during the block; the system releases it when the process dies.

    On Windows, and on a file system that has no locks, nothing is held.

    Raises:
        UsageError: another process holds the folder.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError("another process is at work in this folder", place=str(folder), hint="wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            os.close(descriptor)
            raise
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def is_running(folder: Path) -> bool:
    """Return whether a process is at work in a run folder; False where the system cannot say.

    Example:
        >>> is_running(Path("."))
        False
    """
    if sys.platform == "win32":
        return False
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _release_in_child() -> None:
    """Close inherited descriptors: a forked worker of a data loader may outlive its run by seconds."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
