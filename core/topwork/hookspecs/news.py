"""Hooks that bring news of a run; what they return is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topwork.hookspecs.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topwork import Json, Run, Stage


@hookspec
def run_started(run: Run) -> None:
    """Take note that a run begins, or goes on after an interruption.

    Example:
        @topwork.hookimpl
        def run_started(run):
            run.say(f"the run folder is {run.root}")
    """


@hookspec
def stage_started(run: Run, stage: Stage, index: int) -> None:
    """Take note that a stage begins.

    Example:
        @topwork.hookimpl
        def stage_started(run, stage, index):
            run.say(f"{stage.name} begins with seed {run.seed}")
    """


@hookspec
def step_logged(run: Run, stage: Stage, step: int, numbers: Mapping[str, float]) -> None:
    """Take the numbers that a training has logged, about fifty times in a stage; on the main process alone.

    Args:
        run: the run; `run.folder` is the running stage's own folder.
        stage: the stage that trains.
        step: optimizer steps so far in this training.
        numbers: such as "loss", "learning_rate", "grad_norm", "epoch", and "eval_<metric>" after an evaluation.

    Example:
        @topwork.hookimpl
        def step_logged(step, numbers):
            print(step, numbers.get("loss"))
    """


@hookspec
def stage_done(run: Run, stage: Stage, index: int, result: Mapping[str, Json]) -> None:
    """Take the result of a stage that has ended; it is on disk.

    Example:
        @topwork.hookimpl
        def stage_done(run, stage, index, result):
            if result.get("measures") == "model":
                print(stage.name, result["metrics"])
    """


@hookspec
def run_failed(run: Run, error: BaseException) -> None:
    """Take note that a run has ended with an error.

    Example:
        @topwork.hookimpl
        def run_failed(run, error):
            notify(f"{run.root} failed: {error}")
    """


@hookspec
def run_done(run: Run) -> None:
    """Take note that a run has ended well.

    Example:
        @topwork.hookimpl
        def run_done(run):
            notify(f"{run.root} is done after {len(run.results)} stages")
    """
