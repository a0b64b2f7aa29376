"""Checks of all rows before the first stage, so that a bad row is refused before hours of training and not after them.

Entry point: `check_run`. A task's `precheck` only raises doubts: a doubtful row is encoded as a stage would encode it,
so nothing is refused here that a stage would take, and the errors are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.columns import chunks, row_count
from topwork.data.table import located, read_many
from topwork.errors import DataError
from topwork.items import Mode

if TYPE_CHECKING:
    from topwork import Run  # the public name: a contract stands below the run that keeps it
    from topwork.process import Process
    from topwork.task import Task

Level = Literal["quick", "full", "none"]
_CHUNK = 64
_LISTED = 8


def check_run(run: Run, roles: Iterable[str], level: Level) -> None:
    """Check the rows of these roles; rows that come as a stream are not checked.

    Raises:
        DataError: rows that the task cannot use; with `data.on_error: skip` a line says which will be left out.
    """
    from topwork.task import Task

    # a task without a precheck does not want the rows read for nothing
    if level == "none" or (level == "quick" and type(run.task).precheck is Task.precheck):
        return
    for role in sorted(roles):
        rows = run.rows(role)
        if row_count(rows) is None:
            continue
        bad = bad_rows(run.task, rows, role, level, run.process, run.progress)
        if bad and run.on_error != "skip":
            raise _joined(bad, role)
        if bad:
            run.say(f"{role}: {len(bad)} of {len(rows)} rows cannot be used and will be left out: {_listed(bad)}")


def bad_rows(task: Task, rows: Any, role: str, level: Level, process: Process, progress: Any = None) -> list[DataError]:
    """Return the error of every row that the task refuses, in the order of the rows.

    Args:
        task: whose rows they are.
        rows: those of a role, with canonical columns.
        role: "train", "calibrate", "evaluate" or "predict".
        level: quick: rows of which the task is in doubt (`Task.precheck`) are encoded; full: all are.
        process: this process; each checks a share of the rows, and every process returns all errors.
        progress: as `Run.progress`.
    """
    errors: list[DataError] = []
    # rows to predict and to compare need not be learnable; but their truth can be wrong as well
    known: dict[str, list[Mode]] = {"train": ["loss"], "predict": ["predict"]}
    modes = known.get(role, ["predict", "loss"])
    steps: Any = chunks(range(len(rows)), _CHUNK, process.index, process.count)
    for indices, _ in progress(steps, label=f"checking {role} rows") if progress else steps:
        for index, read in zip(indices, read_many(rows, indices)):
            try:
                row = read()
                doubtful = next((mode for mode in modes if task.precheck(row, mode)), None)
                if doubtful is not None or level == "full":
                    task.encode([row], doubtful or modes[0], 0)
            except DataError as error:
                error.__traceback__ = None
                errors.append(located(rows, error, index))
    gathered = [error for part in process.gather(errors) for error in part]
    return sorted(gathered, key=lambda error: error.index if error.index is not None else error.row or 0)


def _joined(bad: Sequence[DataError], role: str) -> DataError:
    """Return the first error, with the others in its hint."""
    first = bad[0]
    first.place = first.place or f"data.{role}"
    if len(bad) > 1:
        rest = len(bad) - 1
        more = f"{rest} more row{'s' * (rest > 1)}: {_listed(bad[1:])}"
        hints = [first.hint] if first.hint else []
        hints += [f"so {'are' if rest > 1 else 'is'} {more}", "or leave them out: `data: {on_error: skip}`"]
        first.hint = "; ".join(hints)
    return first


def _listed(bad: Sequence[DataError]) -> str:
    listed = ", ".join(f"{error.row} ({error.column}: {error.cause})" for error in bad[:_LISTED])
    return listed + (", ..." if len(bad) > _LISTED else "")
