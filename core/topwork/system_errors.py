"""Errors of the machine (a full disk, a folder without permission, too little memory) as errors of topwork.

Libraries raise these in different ways. They are no fault of topwork or of a plugin, so whoever started a run gets the
cause and a hint, and no traceback. Entry point: `translate_system_error`.
"""

from __future__ import annotations

import errno

from topwork.errors import TopworkError

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
    """Return the error in topwork's words, or None when the machine is not the cause."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        text = " ".join(str(error).split())[:200]
        return TopworkError(f"out of memory{f' ({text})' if text else ''}", hint=_MEMORY)
    if isinstance(error, OSError) and error.errno is not None:  # else a library's own: PIL's of a damaged picture
        file = str(error.filename) if error.filename is not None else None
        return TopworkError(error.strerror or str(error), place=file, hint=_HINTS.get(error.errno))
    # safetensors, tokenizers and torch report the system's errors in words of their own, without a number: torch, when
    # a write to a checkpoint was cut short, its place in the archive alone
    if any(text in str(error) for text in ("No space left on device", "PytorchStreamWriter", "inline_container")):
        return TopworkError("No space left on device", hint=_HINTS[errno.ENOSPC])
    return None
