"""Rows are looked at before the first stage, so that a bad one is refused before hours of training and not after them.

What a quick look is, only a task knows (`Task.precheck`). It never decides: a doubtful row is encoded as a stage would
encode it, so nothing is refused here that a stage would take, and the errors are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.roles import chunks, row_count
from topwork.errors import DataError
from topwork.items import Json, Mode

if TYPE_CHECKING:
    from topwork import Run  # the public name: a contract stands below the run that keeps it
    from topwork.process import Process
    from topwork.task import Task

Level = Literal["quick", "full", "none"]
_CHUNK = 64
_NAMED = 8


def check_run(run: Run, roles: Iterable[str], level: Level) -> None:
    """Look at the rows of these roles; rows that come as a stream are not looked at.

    Raises:
        DataError: rows that the task cannot use; with `data.on_error: skip` a line says which will be left out.
    """
    from topwork.task import Task

    # a task that knows no quick look does not want the rows read for nothing
    if level == "none" or (level == "quick" and type(run.task).precheck is Task.precheck):
        return
    for role in sorted(roles):
        rows = run.rows(role)
        if row_count(rows) is None:
            continue
        bad = bad_rows(run.task, rows, role, level, run.process, run.progress)
        if bad and run.on_error != "skip":
            raise _error(bad, role)
        if bad:
            run.say(f"{role}: {len(bad)} of {len(rows)} rows cannot be used and will be left out: {_listed(bad)}")


def bad_rows(
    task: Task, rows: Any, role: str, level: Level, process: Process, progress: Any = None
) -> list[dict[str, Json]]:
    """{"row", "column", "cause", "mend"} of every row that the task refuses, in order.

    Args:
        level: quick: rows of which the task is in doubt are encoded; full: all are, whatever that takes.
        progress: as `Run.progress`.
    """
    found: list[dict[str, Json]] = []
    # what is only predicted and compared need not be learnable; but its truth can be wrong as well
    known: dict[str, list[Mode]] = {"train": ["loss"], "predict": ["predict"]}
    modes = known.get(role, ["predict", "loss"])
    steps: Any = chunks(range(len(rows)), _CHUNK, process.index, process.count)
    for numbers, _ in progress(steps, label=f"checking {role} rows") if progress else steps:
        for number in numbers:
            row = rows[number]
            try:
                doubtful = next((mode for mode in modes if task.precheck(row, mode)), None)
                if doubtful is not None or level == "full":
                    task.encode([row], doubtful or modes[0], 0)
            except DataError as error:
                found.append({"row": number, "column": error.column, "cause": error.cause, "mend": error.hint})
    gathered = [entry for entries in process.gather(found) for entry in entries]
    return sorted(gathered, key=lambda entry: entry["row"])


def _error(bad: list[dict[str, Json]], role: str) -> DataError:
    first = dict(bad[0])
    if len(bad) > 1:
        rest = len(bad) - 1
        more = f"{rest} more row{'s' * (rest > 1)}: {_listed(bad[1:])}"
        first["mend"] = f"{first['mend']}; so {'are' if rest > 1 else 'is'} {more}; or leave them out: `on_error: skip`"
    return DataError(first.pop("cause"), place=f"data.{role}", **first)


def _listed(bad: list[dict[str, Json]]) -> str:
    named = ", ".join(f"{entry['row']} ({entry['column']}: {entry['cause']})" for entry in bad[:_NAMED])
    return named + (", ..." if len(bad) > _NAMED else "")
