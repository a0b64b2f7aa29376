"""Redirection of prints while stdout belongs to the output of a command: `stdout_to_stderr`.

Code of plugins may close or remove the streams; `reopen_streams` puts them back, so that errors can still be said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any, TextIO, cast


@contextmanager
def stdout_to_stderr() -> Iterator[TextIO]:
    """Send to stderr what is printed during the block: by Python, by libraries in C and by other programs.

    Yields the stream of stdout, for the output of the command itself.
    """
    with ExitStack() as stack:
        stdout = stack.enter_context(_descriptor_to_stderr()) or sys.stdout
        stack.enter_context(redirect_stdout(cast("TextIO", _Unclosed(sys.stderr))))
        yield stdout
    reopen_streams()


def reopen_streams() -> None:
    """Put stdout and stderr back where code has closed or removed them and the system still has them open."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and not stream.closed:
            continue
        with suppress(OSError):  # the process never had it, as daemons
            os.fstat(descriptor)
            stream = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, name, stream)


class _Unclosed:
    """A stream that is never closed: `sys.stdout.close()` of a plugin would close what stands for stdout meanwhile."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Do nothing."""


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
