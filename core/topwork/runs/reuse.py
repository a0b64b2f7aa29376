"""Finished stages that are kept: by `resume` in their own folder, by `run --from` from another run's.

Entry points: `stored_model`, the model that finished stages left; `redo`, which drops the stages that a changed recipe
makes wrong; `take_over`, which copies the leading stages of another run that the recipe leaves unchanged.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.errors import CheckpointError, UsageError
from topwork.files import remove_folder, write_whole
from topwork.runs.outputs import changed_outputs, first_damage
from topwork.runs.records import (
    BEGUN,
    RECIPE,
    RESULT,
    RUN,
    change_of,
    first_change,
    read_record,
    stage_folder,
    write_record,
)

if TYPE_CHECKING:
    from topwork.recipe.recipe import Recipe

_HINT = "put the value back, say `topwork resume --redo`, or start a run of its own with the changed recipe"


def count_finished(recipe: Recipe, root: Path) -> int:
    """Return how many stages are done, in order."""
    count = 0
    for index, stage in enumerate(recipe.stages):
        if not (stage_folder(root, stage, index) / RESULT).is_file():
            break
        count += 1
    return count


def stored_model(recipe: Recipe, root: Path, done: int) -> Path | None:
    """Return the folder of the model as the finished stages left it; None when none of them changed it.

    Args:
        recipe: of the run.
        root: the run folder.
        done: how many stages count as finished.

    Raises:
        UsageError: there is no such folder any more.
    """
    changed = [index for index in range(done) if recipe.stages[index].changes_model]
    if not changed:
        return None
    last = changed[-1]
    kept = stage_folder(root, recipe.stages[last], last) / "model"
    if kept.is_dir():
        return kept
    changing = {stage.name: stage.changes_model for stage in recipe.stages}
    results = {int(path.parent.name.partition("-")[0]): path for path in (root / "stages").glob(f"[0-9]*/{RESULT}")}
    later = [results[number] for number in sorted(results) if number > last + 1]
    for file in later:  # a finished run keeps what `save` wrote, and no second copy
        if changing.get(read_record(file, "stage")["stage"], True):
            break
        saved = _saved_inside(file)
        if saved is not None and (root / saved).is_dir():
            return root / saved
    raise UsageError("the model that the finished stages left is gone", place=str(kept), hint="run again")


def _saved_inside(file: Path) -> str | None:
    """Return the model folder that a stage's result names, if it is written relative to the run folder."""
    result = read_record(file, "result")["result"]
    saved = result.get("model_folder") if isinstance(result, dict) else None
    return saved if isinstance(saved, str) and not Path(saved).is_absolute() else None


def check_finished(recipe: Recipe, root: Path) -> None:
    """Compare what the finished stages depend on and have left with what they had and wrote.

    Raises:
        UsageError: a value or a file on which a begun or finished stage depends was changed.
        CheckpointError: a file that a finished stage wrote was removed or changed.
    """
    change = first_change(recipe, root)
    if change is not None:
        raise UsageError(change[1], place=str(root / RECIPE), hint=_HINT)
    damage = first_damage(recipe, root, count_finished(recipe, root))
    if damage is not None:
        hint = "put the file back from a copy, or say `topwork resume --redo`: the stage is then done again"
        raise CheckpointError(damage[1], place=str(damage[2]), hint=hint)


def redo(recipe: Recipe, root: Path) -> str | None:
    """Drop the stages that a changed recipe makes wrong or whose files were changed, so that they are done again.

    Args:
        recipe: as it is now.
        root: the run folder.

    Returns:
        what was changed and from which stage on the run begins again; None when nothing was changed.
    """
    finished = count_finished(recipe, root)
    changes = [change for change in (first_change(recipe, root), first_damage(recipe, root, finished)) if change]
    if not changes:
        return None
    change = min(changes, key=lambda known: known[0])
    count, model = _reusable(recipe, root, min(change[0], finished))
    _keep_model(recipe, root, root, count, model)
    record = read_record(root / RUN)
    for folder in sorted((root / "stages").iterdir()):
        number = folder.name.partition("-")[0]
        if number.isdigit() and int(number) > count:
            remove_folder(folder)
            record.get(BEGUN, {}).pop(folder.name, None)
    write_record(root / RUN, record)
    return f"{change[1]}; stages from {count + 1} on are done again"


def take_over(recipe: Recipe, root: Path, source: Path) -> str:
    """Copy the finished leading stages of another run whose inputs are those of this recipe.

    Args:
        recipe: of the new run.
        root: its folder, with its records.
        source: the other run's folder; it is only read.

    Returns:
        which stages were taken over, and why the next one was not.

    Raises:
        UsageError: `source` is no run folder.
    """
    if not (source / RUN).is_file():
        raise UsageError("this is no run folder", place=str(source), hint="give a folder with run.json and recipe.yaml")
    begun = read_record(source / RUN).get(BEGUN, {})
    same, reason = 0, ""
    for index, stage in enumerate(recipe.stages):
        folder = stage_folder(source, stage, index)
        if folder.name not in begun or not (folder / RESULT).is_file():
            reason = f"stage {index + 1}, {stage.name}, was not finished there"
            break
        difference = change_of(begun[folder.name], recipe, stage)
        if difference is not None:
            reason = f"stage {index + 1}, {stage.name}: {difference}"
            break
        damage = next(changed_outputs(folder), None)
        if damage is not None:
            reason = f"stage {index + 1}, {stage.name}: {damage[0]}: {damage[1]}"
            break
        same += 1
    count, model = _reusable(recipe, source, same)
    if count < same:
        reason = f"the model that stage {count + 1}, {recipe.stages[count].name}, begins with is not stored there"
    record = read_record(root / RUN)
    for index, stage in enumerate(recipe.stages[:count]):
        folder = stage_folder(source, stage, index)
        target = stage_folder(root, stage, index)
        _copy(folder, target, "checkpoints", "model")
        record.setdefault(BEGUN, {})[folder.name] = begun[folder.name]
        _copy_outputs(source, root, target / RESULT)
    _keep_model(recipe, source, root, count, model)
    write_record(root / RUN, {**record, "from": {"run": str(source), "stages": count}})
    taken = f"stages 1 to {count} are those of {source}" if count else f"no stage of {source} can be taken over"
    return f"{taken}; {reason}" if reason else taken


def _reusable(recipe: Recipe, root: Path, most: int) -> tuple[int, Path | None]:
    """Return after how many stages, at most, a run can go on, and the model that these left."""
    for count in range(most, 0, -1):
        try:
            return count, stored_model(recipe, root, count)
        except (UsageError, CheckpointError):  # later stages have replaced that model, or it is damaged
            continue
    return 0, None


def _keep_model(recipe: Recipe, source: Path, root: Path, count: int, model: Path | None) -> None:
    """Copy the model that `count` stages left to where `stored_model` looks first."""
    changed = [index for index in range(count) if recipe.stages[index].changes_model]
    if model is None or not changed:
        return
    target = stage_folder(root, recipe.stages[changed[-1]], changed[-1]) / "model"
    if target != model:
        _copy(model, target)


def _copy(source: Path, target: Path, *left_out: str) -> None:
    """Copy a folder whole or not at all, without what has the names that are left out."""
    with write_whole(target) as temporary:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(*left_out))


def _copy_outputs(source: Path, root: Path, result: Path) -> None:
    """Copy what a stage wrote outside its own folder: its model folder, and files that its result names."""
    saved = _saved_inside(result)
    if saved is not None and (source / saved).is_dir() and not (root / saved).exists():
        _copy(source / saved, root / saved)
    text = result.read_text(encoding="utf-8")
    for file in source.iterdir():
        if file.is_file() and file.name not in (RUN, RECIPE) and f'"{file.name}"' in text:
            shutil.copy2(file, root / file.name)
