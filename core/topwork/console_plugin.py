"""The observer that prints a run's progress: a line per stage and a table at the end. A plugin like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork.console import numbers_in
from topwork.hookspecs import hookimpl

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.stage import Stage


@hookimpl
def run_started(run: Run) -> None:
    count = sum(parameter.numel() for parameter in run.model.parameters())
    run.say(
        f"{run.task.name}: {type(run.model).__name__} ({run.work.form} task head), {count:,} parameters, "
        f"on {run.device}{f' x {run.process.count}' if run.process.count > 1 else ''}; {run.root}"
    )


@hookimpl
def stage_started(run: Run, stage: Stage, index: int) -> None:
    run.say(f"[{index + 1}] {stage.name} ...")


@hookimpl
def stage_done(run: Run, stage: Stage, index: int, result: dict[str, Any]) -> None:
    shown = numbers_in(result, stage.columns_shown)
    seconds = run.results[-1]["seconds"]
    run.say(f"[{index + 1}] {stage.name}: {shown + ', ' if shown else ''}{seconds:.1f} s")


@hookimpl
def run_failed(run: Run, error: BaseException) -> None:
    # whoever started the run gets the error itself, and prints it
    run.console.note(f"failed: {type(error).__name__}: {error}")
    if not isinstance(error, KeyboardInterrupt):
        run.say(f"`topwork resume {run.root}` goes on from the last finished stage")


@hookimpl
def run_done(run: Run) -> None:
    stages = run.plugins.stages
    lines = []
    for record in run.results:
        keys = stages[record["stage"]].columns_shown
        lines.append(
            (str(record["index"] + 1), record["stage"], f"{record['seconds']:.1f}", numbers_in(record["result"], keys))
        )
    run.console.table(f"{run.name or run.task.name}: {run.root}", ["", "stage", "seconds", "result"], lines)
