"""Errors of the machine (a full disk, a folder without permission, too little memory) as errors of topwork.

Libraries raise these in different ways. They are no fault of topwork or of a plugin, so whoever started a run gets the
cause and a hint, and no traceback. Entry point: `translate_system_error`. It goes by types and by the system's error
numbers, never by words of a message.
"""

from __future__ import annotations

import errno
import os
import re
import sys

from topwork.errors import TopworkError

_HINTS = {
    errno.ENOSPC: "free some space, or write elsewhere: `--folder` of a run, `--output` of other commands",
    errno.EDQUOT: "free some space, or write elsewhere: `--folder` of a run, `--output` of other commands",
    errno.EACCES: "choose a folder that you may write, or change its permissions",
    errno.EPERM: "choose a folder that you may write, or change its permissions",
    errno.EROFS: "choose a folder that you may write",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}
_MEMORY = "take a smaller `batch_size` (or a `batch_cost`) in the stage, `precision: bf16`, or a smaller base"


#: how libraries in other languages give the number of the system's error: Rust's `io::Error`, and torch's allocator
_NUMBER = re.compile(r"\(os error (\d+)\)|\bError code (\d+) \(")


def translate_system_error(error: BaseException) -> TopworkError | None:
    """Return the error in topwork's words, or None when the machine is not the cause."""
    if _is_lost_peer(error):
        hint = "its own messages say why; `topwork resume` goes on with the run, on any number of processes"
        return TopworkError("another process of this run has ended, or cannot be reached", hint=hint)
    number = error_number(error)
    if number == errno.ENOMEM or isinstance(error, MemoryError) or _is_out_of_memory(error):
        text = " ".join(str(error).split())[:200]
        return TopworkError(f"out of memory{f' ({text})' if text else ''}", hint=_MEMORY)
    if number is None:  # a library's own error, such as PIL's of a damaged image
        return None
    file = getattr(error, "filename", None)
    cause = (error.strerror if isinstance(error, OSError) else None) or os.strerror(number)
    return TopworkError(cause, place=str(file) if file is not None else None, hint=_HINTS.get(number))


def error_number(error: BaseException) -> int | None:
    """Return the system's number (`errno`) of an error, also of libraries that only write it into their message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _NUMBER.search(str(error))
    return int(match[1] or match[2]) if match else None


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _is_lost_peer(error: BaseException) -> bool:
    """Return whether a process of the same run did not answer.

    Gloo's errors have no type of their own; they name the file of its sources that raised them.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    kinds = (torch.distributed.DistNetworkError, torch.distributed.DistBackendError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "/gloo/transport/" in str(error))
