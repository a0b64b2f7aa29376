"""Redirection of prints while stdout belongs to the output of a command: `stdout_to_stderr`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import TextIO


@contextmanager
def stdout_to_stderr() -> Iterator[TextIO]:
    """Send to stderr what is printed during the block: by Python, by libraries in C and by other programs.

    Yields the stream of stdout, for the output of the command itself.
    """
    with ExitStack() as stack:
        stdout = stack.enter_context(_descriptor_to_stderr()) or sys.stdout
        stack.enter_context(redirect_stdout(sys.stderr))
        yield stdout


@contextmanager
def _descriptor_to_stderr() -> Iterator[TextIO | None]:
    """Let the system's descriptor of stdout be that of stderr during the block, where there are both.

    Yields a stream that still writes to stdout, if Python's own does so.
    """
    _flush()
    try:
        before = os.dup(1)
    except OSError:  # closed, as for daemons
        yield None
        return
    first, stdout = sys.__stdout__, None
    if first is not None and first is sys.stdout and not first.closed:
        stdout = os.fdopen(os.dup(before), "w", encoding=first.encoding, errors=first.errors)
    try:
        with suppress(OSError):
            os.dup2(2, 1)
        yield stdout
    finally:
        _flush()
        os.dup2(before, 1)
        os.close(before)
        if stdout is not None:
            with suppress(OSError):  # whoever reads has read enough
                stdout.close()


def _flush() -> None:
    """Write out what Python's own stdout still holds."""
    if sys.__stdout__ is not None and not sys.__stdout__.closed:
        with suppress(OSError, ValueError):
            sys.__stdout__.flush()
