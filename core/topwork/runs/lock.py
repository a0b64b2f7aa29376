"""A lock on a folder: `locking`."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topwork.errors import UsageError


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
    import os

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
    try:
        yield
    finally:
        os.close(descriptor)
