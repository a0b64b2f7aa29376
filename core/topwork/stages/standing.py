"""Where a loop over streamed rows stands, written now and then, so that a run that was killed goes on from there.

Entry point: `Standing`, which the stages `evaluate` and `predict` hand to the loop. It is written between two buckets
of rows, when all rows that were read have been predicted, so that the batches behind it are those of a run that was
never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.columns import row_count
from topwork.items import Json
from topwork.runs.records import read_record, write_record
from topwork.runs.run import CHECKPOINTS

if TYPE_CHECKING:
    from topwork.process import Process
    from topwork.runs.run import Run

#: seconds between two writings, and how many times longer than the last writing they are apart at least
EVERY, SHARE = 20.0, 20


class Standing:
    """Place in streamed rows up to which a process has worked, and what it has made of them.

    Args:
        file: of this process; it lies in a folder that goes when the work is done.
        process: this process; a file of another number of processes is none to go on from.

    Attributes:
        read: index of the first row that is left.
        kept: what `keep` gave when the file was written; None when there is none to go on from.
        keep: set it before the loop: returns what was made of the rows so far, as JSON; None when that cannot be said.
    """

    def __init__(self, file: Path, process: Process) -> None:
        self.file, self.processes = file, process.count
        self.keep: Callable[[], Json | None] = lambda: None
        state = read_record(file, "processes", "read", "source", "kept") if file.is_file() else None
        self.forget()
        if state is not None and state["processes"] == process.count:
            self.read, self.kept, self._source = int(state["read"]), state["kept"], state["source"]
        self._rows: Any = None
        self._next = time.monotonic() + EVERY

    def forget(self) -> None:
        """Begin with the first row."""
        self.read, self.kept, self._source = 0, None, None

    def begin(self, rows: Any) -> tuple[Any, int]:
        """Return the rows from here on, and the index of the first of them."""
        self._rows = rows.restarted(self._source)
        return self._rows, self.read

    def reached(self, read: int) -> None:
        """Write that all rows up to the one with this index are predicted, if it is time for it."""
        if time.monotonic() < self._next:
            return
        start = time.monotonic()
        kept = self.keep()
        if kept is not None:
            state = {"processes": self.processes, "read": read, "source": self._rows.state_dict(), "kept": kept}
            write_record(self.file, state)
        self._next = time.monotonic() + max(EVERY, SHARE * (time.monotonic() - start))


def standing(run: Run, rows: Any) -> Standing | None:
    """Return where this process of a run stands in the rows of its stage; None for rows that are no stream.

    Rows that have a length are soon read again; a stream may come from far away.
    """
    if row_count(rows) is not None or not hasattr(getattr(rows, "rows", None), "state_dict"):
        return None
    known = Standing(Path(run.folder) / CHECKPOINTS / f"{run.process.index}.json", run.process)
    if not all(run.process.gather(known.kept is not None)):
        known.forget()
    elif run.process.main:
        run.say(f"going on with row {known.read}")
    return known
