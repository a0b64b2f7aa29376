"""From a recipe to a finished run: `execute`; and how an interrupted run goes on: `resume`.

The task and its model are made in `build`; what a stage is given is `run.Run`.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.console import Console
from topwork.data.checks import check_run
from topwork.data.roles import Roles
from topwork.errors import TopworkError, UsageError
from topwork.files import refuse_address, remove_partial, write_text
from topwork.items import Json
from topwork.kernels.selection import choice as kernels
from topwork.kernels.selection import following
from topwork.plugins.calls import strictly
from topwork.plugins.tracking import tracking
from topwork.process import Process
from topwork.runs.build import make_task_model
from topwork.runs.earlier import provide_earlier
from topwork.runs.environment import changes, environment
from topwork.runs.lock import locking
from topwork.runs.records import RECIPE, RUN, read_record, stage_inputs, write_record
from topwork.runs.reuse import check_finished, count_finished, redo, stored_model, take_over
from topwork.runs.run import Run
from topwork.runs.task_model import TaskModel
from topwork.saving.loading import load_folder
from topwork.system.errors import translate_system_error

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.recipe.recipe import Recipe
    from topwork.stage import Stage

_LOG = "log.txt"


def execute(
    recipe: Recipe,
    plugins: Plugins,
    *,
    folder: str | Path | None = None,
    quiet: bool = False,
    save_outside: bool = False,
    reuse: str | Path | None = None,
) -> Run:
    """Run a recipe from its beginning in a new run folder.

    Args:
        recipe: a checked recipe.
        plugins: who brings its task, stages, bases and rows.
        folder: the run folder; by default the next free `runs/<name>-<number>`.
        quiet: print nothing.
        save_outside: `save` may write to a folder outside the run folder.
        reuse: folder of another run, whose leading stages are taken over as far as their inputs are the same.

    Returns:
        the finished run.

    Raises:
        UsageError: the folder holds a run already.
        TopworkError: a stage failed; the run folder keeps what was done, and `resume` goes on. A run that fails before
            its first stage leaves no folder.
    """
    process = Process()
    root = new_folder(recipe, process, folder)
    with _locked(root, process):
        if process.main and (root / RUN).exists():
            hint = f"`topwork resume {root}`, or another folder"
            raise UsageError("the folder holds a run already", place=str(root), hint=hint)
        process.barrier()
        with _removed_unless_begun(root, process):
            if process.main:
                remove_partial(root, deep=False)  # of a run that was killed before it had records
                write_text(root / RECIPE, recipe.to_yaml())
                write_record(root / RUN, _facts(recipe, plugins, process, save_outside))
            note = take_over(recipe, root, Path(reuse)) if process.main and reuse is not None else None
            process.barrier()
            return _run_stages(recipe, plugins, process, root, quiet, [] if note is None else [note])


def resume_run(root: Path, plugins: Plugins, *, quiet: bool = False, again: bool = False) -> Run:
    """Go on in a run folder: finished stages are kept, the model is the last stored one.

    Args:
        root: the run folder.
        plugins: who brings its task, stages, bases and rows.
        quiet: print nothing.
        again: stages that depend on something that was changed are done again, instead of an error.

    Raises:
        UsageError: the folder is no run folder, its plugins are not loaded, its run is still going on, or its recipe
            was changed in what finished stages depend on.
        CheckpointError: what the run has written there is damaged.
    """
    from topwork.recipe.recipe import load_recipe

    if not (root / RUN).is_file() or not (root / RECIPE).is_file():
        raise UsageError("this is no run folder", place=str(root), hint="give a folder with run.json and recipe.yaml")
    facts = read_record(root / RUN, "plugin_files")
    files = facts["plugin_files"]
    if missing := [name for name in files if name not in {str(file) for file in plugins.files}]:
        raise UsageError(
            f"the run was started with the plugin file {missing[0]}",
            place=str(root),
            hint=f"say `--plugin {missing[0]}` again",
        )
    recipe, process = load_recipe(root / RECIPE, (), plugins), Process()
    with _locked(root, process), following(facts.get("kernels")):
        notes = [f"doubtful: {change}" for change in changes(facts, plugins)]
        if process.main:
            remove_partial(root)
        if not again:
            check_finished(recipe, root)
        elif process.main:
            notes += [note] if (note := redo(recipe, root)) is not None else []
        process.barrier()
        return _run_stages(recipe, plugins, process, root, quiet, notes)


def silence_libraries() -> None:
    """Turn off the progress bars of libraries: the run shows one of its own."""
    import datasets
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of its own inner calls
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


# ---------------------------------------------------------------- stages


def _run_stages(
    recipe: Recipe, plugins: Plugins, process: Process, root: Path, quiet: bool, notes: Sequence[str]
) -> Run:
    """Run the stages that are not done yet, and tell the observers; `notes` say how it came to those that are."""
    silence_libraries()
    console = Console(quiet=quiet or not process.main, log=root / _LOG if process.main else None)
    for note in notes:
        console.say(note)
    done = count_finished(recipe, root)
    if done == len(recipe.stages) and done:
        console.say("every stage of this run is done")
    with plugins.blaming(task=recipe.task_name):
        run = _prepare(recipe, plugins, process, root, console, done)
    with strictly(recipe.strict), tracking(plugins, recipe.track if process.main else (), run):
        _run_observed(run, recipe, done)
    return run


def _run_observed(run: Run, recipe: Recipe, done: int) -> None:
    """Run the stages from position `done` on, between the news of the run's beginning and end."""
    plugins = run.plugins
    plugins.hook.run_started(run=run)
    try:
        with plugins.blaming(task=recipe.task_name):
            _check_model(run, recipe.stages, done)
            check_run(run, {role for stage in recipe.stages[done:] for role in stage.reads()}, recipe.data.check)
        for index, stage in enumerate(recipe.stages):
            if index < done:
                run.restore_record(stage, index)
            else:
                _run_stage(run, recipe, stage, index)
        run.drop_spare_models(recipe.stages)
    except BaseException as error:
        try:
            plugins.hook.run_failed(run=run, error=error)
        except (TopworkError, OSError) as second:  # an observer that fails as well must not hide the first: a full disk
            error.add_note(f"besides: {second}")
        raise
    plugins.hook.run_done(run=run)


def _check_model(run: Run, stages: Sequence[Stage], done: int) -> None:
    """Let the stages that are not done yet look at the model, before hours of training and not after them.

    Raises:
        UsageError: what a stage wants of it cannot be.
    """
    for index, stage in enumerate(stages[done:], start=done):
        if (problem := stage.precheck_model(run)) is not None:
            raise UsageError(problem, place=f"stage {index + 1}, {stage.name}")
        if stage.changes_model and run.plugins.foreign(stage=stage.name):
            return  # a stage of another package may leave a model with other layers


def _run_stage(run: Run, recipe: Recipe, stage: Stage, index: int) -> None:
    """Run one stage; its errors name it."""
    try:
        with run.plugins.blaming(stage=stage.name, task=recipe.task_name):
            provide_earlier(run, recipe.stages, index)
            run.run_stage(stage, index, inputs=stage_inputs(recipe, stage))
    except TopworkError as error:
        _locate(error, stage, index)
        raise
    except Exception as error:
        if (translated := translate_system_error(error)) is not None:
            _locate(translated, stage, index)
            raise translated from error
        error.add_note(f"in stage {index + 1}, {stage.name}")
        raise


def _locate(error: TopworkError, stage: Stage, index: int) -> None:
    error.place = f"stage {index + 1}, {stage.name}" + (f", {error.place}" if error.place else "")


def _prepare(recipe: Recipe, plugins: Plugins, process: Process, root: Path, console: Console, done: int) -> Run:
    """Make the run, with the model that the finished stages left, or a fresh one."""
    wanted = {role for stage in recipe.stages for role in stage.reads()}
    roles = Roles(recipe.task_class, plugins, recipe.data, seed=recipe.seed, wanted=wanted)
    stored = stored_model(recipe, root, done)
    if stored is not None:
        console.say(f"going on from {stored.relative_to(root).as_posix()}")
        trusted = any(options.trust_remote_code for options in recipe.bases.values())
        work = TaskModel.of(load_folder(stored, plugins, trust_remote_code=trusted))
    else:
        with process.main_first():  # caches of prepared rows are written once
            rows = roles("train") if roles.has("train") else None
            work = make_task_model(
                recipe.task_class,
                recipe.bases,
                recipe.task_options,
                rows,
                plugins,
                recipe.seed,
                on_error=recipe.data.on_error,
            )
            for note in work.task.state.notes:
                console.say(note)
    return Run(
        work,
        roles,
        root,
        process,
        console,
        seed=recipe.seed,
        on_error=recipe.data.on_error,
        name=recipe.name or recipe.task_name,
        save_outside=bool(read_record(root / RUN).get("save_outside")),
    )


# ---------------------------------------------------------------- the run folder


def _locked(root: Path, process: Process) -> AbstractContextManager[None]:
    return locking(root) if process.main else nullcontext()


@contextmanager
def _removed_unless_begun(root: Path, process: Process) -> Iterator[None]:
    """Remove the run folder again when the block fails before the first stage has begun."""
    try:
        yield
    except BaseException:
        if process.main and root.is_dir() and not (root / "stages").exists():
            for name in (RUN, RECIPE, _LOG):
                (root / name).unlink(missing_ok=True)
            if not any(root.iterdir()):
                shutil.rmtree(root, ignore_errors=True)
        raise


def new_folder(recipe: Recipe, process: Process, folder: str | Path | None) -> Path:
    """Make the run folder: the given one, or the next free `runs/<name>-<number>`; the same on every process."""
    root = Path()
    if folder is not None:
        refuse_address(folder)
    if process.main:
        root = Path(folder) if folder is not None else _free_folder(Path("runs"), recipe.name or recipe.task_name)
        if root.exists() and not root.is_dir():
            raise UsageError("there is a file of that name", place=str(root), hint="give a folder")
        root.mkdir(parents=True, exist_ok=True)
    return process.gather(root)[0]


def _free_folder(parent: Path, name: str) -> Path:
    """Make the next free folder: two runs that start at the same time get two."""
    parent.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        folder = parent / f"{name}-{count}"
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
        else:
            return folder


def _facts(recipe: Recipe, plugins: Plugins, process: Process, save_outside: bool) -> dict[str, Json]:
    facts: dict[str, Json] = {
        "name": recipe.name or recipe.task_name,
        "task": recipe.task_name,
        "seed": recipe.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": str(process.device),
        "processes": process.count,
        "kernels": kernels().to_dict() if process.device.type == "cpu" else None,
        **environment(plugins),
    }
    return {**facts, "save_outside": True} if save_outside else facts
