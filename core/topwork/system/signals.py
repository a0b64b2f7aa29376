"""Signals that ask a run to end: a training writes a checkpoint first.

Schedulers warn by SIGTERM or SIGUSR1 before they kill, a closed terminal by SIGHUP. Entry points: `listening`, which
the command line puts around every command; `requests`, which whoever works in steps asks; `going_on_by`, for work that
is not lost when it ends early.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = ("SIGTERM", "SIGHUP", "SIGUSR1")
#: seconds in which several signals are one request: schedulers and `timeout` signal a process and its group
SAME_REQUEST = 1.0
#: exit code of a command that a signal ended: EX_TEMPFAIL of sysexits.h, "try again"
EXIT_CODE = 75


class Stopped(BaseException):
    """End of a run that was asked for from outside; no error, hence no `Exception`.

    Args:
        cause: for the message.
        hint: how to go on, once known.
        exit_code: of the command line.
    """

    def __init__(self, cause: str, hint: str | None = None, exit_code: int = EXIT_CODE) -> None:
        super().__init__(cause)
        self.cause, self.hint, self.exit_code = cause, hint, exit_code

    def __str__(self) -> str:
        return f"{self.cause}; {self.hint}" if self.hint else self.cause


class Requests:
    """Signals that came, of the names in `SIGNALS`.

    Attributes:
        pending: name of the first signal that was not answered yet, or None.
    """

    def __init__(self) -> None:
        self.pending: str | None = None
        self._deferred = 0
        self._first = -math.inf
        self._ended = False

    def receive(self, name: str) -> None:
        """Take a signal: raise at once, or, the first time within `deferred`, note it.

        Signals soon after the first are the same request, and none counts once the end is being reported.

        Raises:
            Stopped: nothing defers it, or it is the second one.
        """
        if self._ended or time.monotonic() - self._first < SAME_REQUEST:
            return
        self._first = time.monotonic()
        again = self.pending is not None
        self.pending = self.pending or name
        if again or not self._deferred:
            self.answer()

    def answer(self) -> None:
        """End the run if a signal is pending.

        Raises:
            Stopped: it is.
        """
        if self.pending is not None:
            name, self.pending = self.pending, None
            raise Stopped(f"stopped by {name}")

    def begin(self) -> None:
        """Forget earlier signals."""
        self.pending, self._first, self._ended = None, -math.inf, False

    def end(self) -> None:
        """Ignore what comes from now on: the program has stopped its work and says so."""
        self._ended = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note signals during the block instead of raising: whoever runs it looks at `pending` and calls `answer`.

        An error in the block after a signal counts as its consequence: workers may have ended by the same signal.

        Raises:
            Stopped: a signal that came during the block was not answered in it.
        """
        self._deferred += 1
        try:
            yield
        except Exception as error:
            if self.pending is not None:
                name, self.pending = self.pending, None
                raise Stopped(f"stopped by {name}") from error
            raise
        finally:
            self._deferred -= 1
        self.answer()


requests = Requests()


@contextmanager
def listening() -> Iterator[None]:
    """Turn the signals of `SIGNALS` into requests during the block; those that are ignored (`nohup`) stay so.

    Only the main thread can listen; processes that are forked in the block (workers of a data loader) do not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            requests.receive(signal.Signals(number).name)

    before: dict[Any, Any] = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)  # Windows has SIGTERM alone
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, handle)
    requests.begin()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def going_on_by(advice: str | Callable[[], str | None]) -> Iterator[None]:
    """Let Ctrl-C or a signal that ends the block say how to go on with its work.

    Args:
        advice: a sentence, such as "the same command goes on", or what returns it; None where nothing is kept.

    Raises:
        Stopped: the block was ended.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as error:
        stop = error if isinstance(error, Stopped) else Stopped("interrupted", exit_code=130)
        stop.hint = stop.hint or (advice if isinstance(advice, str) else advice())
        raise stop from None
