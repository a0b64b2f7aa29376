"""Errors of the machine (a full disk, a folder without permission, too little memory) as errors of topwork.

Libraries raise these in different ways. They are no fault of topwork or of a plugin, so whoever started a run gets the
cause and a hint, and no traceback. Entry point: `translate_system_error`.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topwork.errors import TopworkError, UsageError

_HINTS = {
    errno.ENOSPC: "free some space, or put the run elsewhere with --folder",
    errno.EDQUOT: "free some space, or put the run elsewhere with --folder",
    errno.EACCES: "choose a folder that you may write, or change its permissions",
    errno.EPERM: "choose a folder that you may write, or change its permissions",
    errno.EROFS: "choose a folder that you may write",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}
_MEMORY = "take a smaller `batch_size` (or a `batch_cost`) in the stage, `precision: bf16`, or a smaller base"


def translate_system_error(error: BaseException) -> TopworkError | None:
    """Return the error as one of topwork, or None when the machine is not the cause."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        text = " ".join(str(error).split())[:200]
        return TopworkError(f"out of memory{f' ({text})' if text else ''}", hint=_MEMORY)
    if isinstance(error, OSError) and error.errno is not None:  # else a library's own: PIL's of a damaged picture
        file = str(error.filename) if error.filename is not None else None
        return TopworkError(error.strerror or str(error), place=file, hint=_HINTS.get(error.errno))
    # safetensors and tokenizers raise errors of their own, with the system's message in the text
    if "No space left on device" in str(error):
        return TopworkError("No space left on device", hint=_HINTS[errno.ENOSPC])
    return None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder during the block; the system gives it free when the process dies.

    On Windows, and on a file system that knows no locks, nothing is held.

    Raises:
        UsageError: somebody works in it already.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl
    import os

    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise UsageError(
            "another process is at work in this run folder", place=str(folder), hint="wait for it"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            os.close(held)
            raise
    try:
        yield
    finally:
        os.close(held)
