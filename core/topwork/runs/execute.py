"""From a recipe to a finished run: bases, rows, task, model, then stage by stage; and how it goes on later."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork.console import Console
from topwork.data.checks import check_run
from topwork.data.roles import Roles, row_count
from topwork.errors import DataError, TopworkError, UsageError
from topwork.files import write_json, write_text
from topwork.items import Json
from topwork.kernels.selection import choice as kernels
from topwork.kernels.selection import following
from topwork.runs.process import Process
from topwork.runs.run import Run, read_record, stage_seed
from topwork.system_errors import alone_in, translate_system_error
from topwork.task_model import TaskModel, graft

if TYPE_CHECKING:
    from topwork.base import BaseOptions
    from topwork.plugins.registry import Plugins
    from topwork.recipe.recipe import Recipe
    from topwork.stage import Stage
    from topwork.task import State, Task

RECORDED = ("topwork", "torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "numpy", "safetensors")


def execute(recipe: Recipe, plugins: Plugins, *, folder: str | Path | None = None, quiet: bool = False) -> Run:
    """Run a recipe from its beginning in a new run folder.

    Raises:
        UsageError: the folder holds a run already.
        TopworkError: a stage failed; the run folder keeps what was done, `topwork resume` goes on.
    """
    process = Process()
    root = _new_folder(recipe, process, folder)
    with _held(root, process):
        if process.main:
            if (root / "run.json").exists():
                hint = f"`topwork resume {root}`, or another folder"
                raise UsageError("the folder holds a run already", place=str(root), hint=hint)
            write_text(root / "recipe.yaml", recipe.to_yaml())
            write_json(root / "run.json", _facts(recipe, plugins, process))
        process.barrier()
        return _go(recipe, plugins, process, root, quiet)


def resume(root: Path, plugins: Plugins, *, quiet: bool = False) -> Run:
    """Go on in a run folder: finished stages are kept, the model is the last stored one.

    Raises:
        UsageError: the folder is no run folder, its plugins are not loaded, or its run is still going on.
        CheckpointError: what the run has written there is damaged.
    """
    from topwork.recipe.recipe import load_recipe

    if not (root / "run.json").is_file() or not (root / "recipe.yaml").is_file():
        raise UsageError("this is no run folder", place=str(root), hint="give a folder with run.json and recipe.yaml")
    facts = read_record(root / "run.json", "plugin_files")
    files = facts["plugin_files"]
    if missing := [name for name in files if name not in {str(file) for file in plugins.files}]:
        raise UsageError(
            f"the run was started with the plugin file {missing[0]}",
            place=str(root),
            hint=f"say `--plugin {missing[0]}` again",
        )
    recipe, process = load_recipe(root / "recipe.yaml", (), plugins), Process()
    with _held(root, process), following(facts.get("kernels")):
        return _go(recipe, plugins, process, root, quiet)


def _held(root: Path, process: Process) -> AbstractContextManager[None]:
    return alone_in(root) if process.main else nullcontext()


def _go(recipe: Recipe, plugins: Plugins, process: Process, root: Path, quiet: bool) -> Run:
    """Do the stages that are not done yet; tell the observers."""
    hush_libraries()
    console = Console(quiet=quiet or not process.main, log=root / "log.txt" if process.main else None)
    done = _finished(recipe, root)
    if done == len(recipe.stages) and done:
        console.say("every stage of this run is done")
    run = _prepare(recipe, plugins, process, root, console, done)
    plugins.hook.run_started(run=run)
    try:
        check_run(run, {role for stage in recipe.stages[done:] for role in stage.reads()}, recipe.data.check)
        for index, stage in enumerate(recipe.stages):
            if index < done:
                run.recall(stage, index)
                continue
            try:
                run.do(stage, index)
            except TopworkError as error:
                _place(error, stage, index)
                raise
            except Exception as error:
                if (refused := translate_system_error(error)) is not None:
                    _place(refused, stage, index)
                    raise refused from error
                error.add_note(f"in stage {index + 1}, {stage.name}")
                raise
    except BaseException as error:
        try:
            plugins.hook.run_failed(run=run, error=error)
        except TopworkError as second:  # an observer that fails as well (on a full disk, say) must not hide the first
            error.add_note(f"besides: {second}")
        raise
    plugins.hook.run_done(run=run)
    return run


def _place(error: TopworkError, stage: Stage, index: int) -> None:
    error.place = f"stage {index + 1}, {stage.name}" + (f", {error.place}" if error.place else "")


def hush_libraries() -> None:
    """One progress bar at a time is enough, and it is the run's."""
    import datasets
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of its own inner calls
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _finished(recipe: Recipe, root: Path) -> int:
    """How many stages are done, in order."""
    count = 0
    for index, stage in enumerate(recipe.stages):
        if not (root / "stages" / f"{index + 1:02d}-{stage.name}" / "result.json").is_file():
            break
        count += 1
    return count


def _prepare(recipe: Recipe, plugins: Plugins, process: Process, root: Path, console: Console, done: int) -> Run:
    """The model of the last finished stage that changed it, or a fresh one."""
    wanted = {role for stage in recipe.stages for role in stage.reads()}
    roles = Roles(recipe.task_class, plugins, recipe.data, seed=recipe.seed, wanted=wanted)
    changed = [index for index in range(done) if recipe.stages[index].changes_model]
    stored = None
    if changed:  # the model as the last finished stage left it: without it nothing can go on
        stored = root / "stages" / f"{changed[-1] + 1:02d}-{recipe.stages[changed[-1]].name}" / "model"
        if not stored.is_dir():
            raise UsageError("the model that the finished stages left is gone", place=str(stored), hint="run again")
    if stored is not None:
        from topwork.saving.model_folder import load_folder

        console.say(f"going on from {stored.relative_to(root).as_posix()}")
        trusted = any(options.trust_remote_code for options in recipe.bases.values())
        work = load_folder(stored, plugins, trust_remote_code=trusted)
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
    return Run(
        work,
        roles,
        root,
        process,
        console,
        seed=recipe.seed,
        on_error=recipe.data.on_error,
        name=recipe.name or recipe.task_name,
    )


def make_task_model(
    task_class: type[Task],
    bases: Mapping[str, BaseOptions],
    options: Any,
    rows: Any,
    plugins: Plugins,
    seed: int,
    on_error: Literal["raise", "skip"] = "raise",
) -> TaskModel:
    """Load the bases, let the task learn from the rows, and graft the task head."""
    from transformers import set_seed

    loaded = {role: plugins.load_base(options) for role, options in bases.items()}
    state = _learned(task_class, rows, loaded, options, on_error)
    task = task_class(loaded, options, state)
    set_seed(stage_seed(seed, 10**6))  # of the new weights: apart from every stage's seed
    model, form = graft(task, plugins, weights=True)
    model.eval()
    return TaskModel(task, model, plugins, form)


def _learned(task_class: type[Task], rows: Any, bases: Mapping[str, Any], options: Any, on_error: str) -> State:
    """What the task learns from the rows. With `on_error: skip` without those that it refuses: they are counted by the
    stages, which meet them again."""
    while True:
        try:
            return task_class.learn(rows, bases, options)
        except DataError as error:
            if on_error != "skip" or error.row is None:
                raise
            rows = _without(rows, error.row)


def _without(rows: Any, number: int) -> Any:
    """The rows but one."""
    length = row_count(rows)
    if length is None:
        return rows.filter(lambda _, place: place != number, with_indices=True)
    kept = [place for place in range(length) if place != number]
    return rows.select(kept) if hasattr(rows, "select") else [rows[place] for place in kept]


def _new_folder(recipe: Recipe, process: Process, folder: str | Path | None) -> Path:
    """The run folder: the one asked for, or the next free `runs/<name>-<number>`; the same on every process."""
    root = Path()
    if process.main:
        root = Path(folder) if folder is not None else _free_folder(Path("runs"), recipe.name or recipe.task_name)
        if root.exists() and not root.is_dir():
            raise UsageError("there is a file of that name", place=str(root), hint="give a folder")
        root.mkdir(parents=True, exist_ok=True)
    return process.gather(root)[0]


def _free_folder(parent: Path, name: str) -> Path:
    """Make the next free folder: two runs that start at the same time get two."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _facts(recipe: Recipe, plugins: Plugins, process: Process) -> dict[str, Json]:
    return {
        "name": recipe.name or recipe.task_name,
        "task": recipe.task_name,
        "seed": recipe.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version(), **_versions()},
        "device": str(process.device),
        "processes": process.count,
        "kernels": kernels().to_dict() if process.device.type == "cpu" else None,
        "plugins": {info.name: f"{info.package} {info.version}" for info in plugins.loaded},
        "plugin_files": [str(file) for file in plugins.files],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
