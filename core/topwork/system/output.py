"""What code prints while stdout belongs to the output of a command: `stdout_to_stderr`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what is printed during the block: by Python, by libraries in C and by other programs."""
    with redirect_stdout(sys.stderr), _descriptor_to_stderr():
        yield


@contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    """Let the system's descriptor of stdout be that of stderr during the block, where there are both."""
    _flush()
    try:
        before = os.dup(1)
    except OSError:  # closed, as for daemons
        yield
        return
    try:
        with suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        _flush()
        os.dup2(before, 1)
        os.close(before)


def _flush() -> None:
    """Write out what Python's own stdout still holds."""
    if sys.__stdout__ is not None and not sys.__stdout__.closed:
        with suppress(OSError, ValueError):
            sys.__stdout__.flush()
