"""Files in which a run describes itself: `read_record`, and the inputs of a stage, which `first_change` compares.

A stage depends on its options, the seed, the task with its options, the bases and the rows that it reads. They are
written into run.json when the stage begins, so that a recipe that was changed since then is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import CheckpointError, UsageError
from topwork.files import write_json
from topwork.items import Json
from topwork.runs.fingerprints import fingerprints
from topwork.saving.checksum import CHECKSUM, check_checksum, with_checksum

if TYPE_CHECKING:
    from topwork.recipe.recipe import Recipe
    from topwork.stage import Stage

RUN, RECIPE, RESULT, STAGES = "run.json", "recipe.yaml", "result.json", "stages"
#: in run.json: folder of a stage -> what its result depends on
BEGUN = "begun"
#: in result.json: files of the stage's folder with their sizes and hashes
OUTPUTS = "outputs"
#: kinds of the values of known keys
_KINDS: dict[str, Any] = {
    BEGUN: dict,
    "plugin_files": list,
    "kernels": dict | None,
    "stage": str,
    "index": int,
    "result": dict,
    OUTPUTS: dict,
}
_DAMAGED = "put it back from a copy, or start the run again"
#: roles whose rows are cut from the training rows, which then depend on the cut
_CUT_ROLES = ("calibrate", "evaluate")


def read_record(file: Path, *needed: str) -> dict[str, Json]:
    """Read what a run has written about itself or a stage.

    Args:
        file: its JSON file.
        needed: keys that it must have.

    Raises:
        CheckpointError: the file is not as topwork writes it.
    """
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise CheckpointError("the file is damaged (it is no regular file)", place=str(file), hint=_DAMAGED)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in needed if key not in record]
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the file is damaged ({error})", place=str(file), hint=_DAMAGED) from error
    if not isinstance(record, dict):
        raise CheckpointError("the file is damaged (it holds no mapping)", place=str(file), hint=_DAMAGED)
    for key, kinds in _KINDS.items():
        if key in record and not isinstance(record[key], kinds):
            raise CheckpointError(f"the file is damaged (its `{key}`)", place=str(file), hint=_DAMAGED)
    for key in (BEGUN, OUTPUTS):
        if not all(isinstance(known, dict) for known in record.get(key, {}).values()):
            raise CheckpointError(f"the file is damaged (its `{key}`)", place=str(file), hint=_DAMAGED)
    if missing:
        raise CheckpointError(f"the file is damaged (it lacks `{missing[0]}`)", place=str(file), hint=_DAMAGED)
    check_checksum(record, file)
    record.pop(CHECKSUM, None)
    return record


def write_record(file: Path, record: Mapping[str, Json]) -> None:
    """Write what a run says about itself or a stage, whole or not at all, with its own checksum."""
    write_json(file, with_checksum(record))


def stage_folder(root: Path, stage: Stage, index: int) -> Path:
    """Return the folder of a stage: `stages/01-train` and so on."""
    return root / STAGES / f"{index + 1:02d}-{stage.name}"


def stage_seed(seed: int, index: int) -> int:
    """Return the seed of a stage: the same whether the run was interrupted before it or not.

    Raises:
        UsageError: the seed is negative.
    """
    import numpy as np

    if seed < 0:
        raise UsageError(f"a seed is 0 or more, not {seed}", place="seed")

    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % (2**31))


def stage_inputs(recipe: Recipe, stage: Stage) -> dict[str, Json]:
    """Return everything in a recipe that the result of a stage depends on, as JSON."""
    whole = recipe.to_dict()
    roles = {"train", *stage.reads()}
    data = {key: value for key, value in whole["data"].items() if key not in ("predict", "check") or key in roles}
    for role in _CUT_ROLES:
        rows = data.get(role)
        if role not in roles and not (isinstance(rows, dict) and "cut" in rows):
            data.pop(role, None)
    return {
        "stage": stage.name,
        "options": stage.model_dump(mode="json"),
        "seed": whole["seed"],
        "task": whole["task"],
        "base": whole["base"],
        "data": data,
        "files": fingerprints(data),
    }


def note_inputs(root: Path, folder: Path, inputs: Json) -> None:
    """Write into run.json what the stage that begins in `folder` depends on."""
    record = read_record(root / RUN)
    record.setdefault(BEGUN, {})[folder.name] = inputs
    write_record(root / RUN, record)


def first_change(recipe: Recipe, root: Path) -> tuple[int, str] | None:
    """Compare a recipe with the inputs of the stages that have begun.

    Returns:
        position of the first stage that depends on something that was changed, and what; None when nothing was.
    """
    begun = read_record(root / RUN).get(BEGUN, {})
    finished = {file.parent.name.partition("-")[::2] for file in (root / "stages").glob(f"*/{RESULT}")}
    for index, stage in enumerate(recipe.stages):
        folder = stage_folder(root, stage, index)
        number = folder.name.partition("-")[0]
        others = sorted(name for finished_number, name in finished if finished_number == number)
        if others and stage.name not in others:
            return index, f"the recipe was changed: stage {index + 1} was {others[0]}, finished, and is {stage.name}"
        if folder.name in begun:
            before = begun[folder.name]
        elif (folder / RESULT).is_file():  # written by an earlier version
            before = {"options": read_record(folder / RESULT, "stage").get("options")}
        else:
            continue
        change = change_of(before, recipe, stage)
        if change is not None:
            state = "was finished" if (folder / RESULT).is_file() else "began"
            return index, f"the recipe was changed since stage {index + 1}, {stage.name}, {state}: {change}"
    return None


def change_of(before: Mapping[str, Json], recipe: Recipe, stage: Stage) -> str | None:
    """Describe the first difference between the inputs that a stage had and has now; None when they are equal.

    An option that the earlier inputs lack is none of then: an older version wrote them. Its default is no change.
    """
    now = json.loads(json.dumps(stage_inputs(recipe, stage)))
    chosen = _chosen(recipe, stage)
    for key in before:
        if before[key] is None:
            continue
        if key == "files":
            known = now.get(key, {})
            change = next((path for path, mark in before[key].items() if known.get(path) != mark), None)
            if change is not None:
                return f"the rows of `{change}` are not those of then"
            continue
        path = f"stages.{stage.name}" if key == "options" else key
        change = _difference(before[key], now.get(key), path, chosen.get(key))
        if change is not None:
            return change
    return None


def _chosen(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Return the inputs of a stage that are no defaults."""
    dumped = {
        role: options.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for role, options in [*recipe.bases.items(), ("task", recipe.task_options), ("data", recipe.data)]
    }
    bases = {role: dumped[role] for role in recipe.bases}
    return {
        "options": stage.model_dump(mode="json", exclude_defaults=True),
        "task": dumped["task"],
        "base": bases if len(bases) > 1 else next(iter(bases.values())),
        "data": dumped["data"],
    }


def _difference(before: Json, now: Json, path: str, chosen: Json) -> str | None:
    """Describe the first difference of two JSON values; None when they are equal.

    Args:
        before: the earlier value.
        now: the present value.
        path: its name in the message.
        chosen: entries of `now` that are no defaults; the others count only when `before` has them.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        known = chosen if isinstance(chosen, dict) else {}
        for key in [*before, *(key for key in now if key not in before and key in known)]:
            change = _difference(before.get(key), now.get(key), f"{path}.{key}", known.get(key))
            if change is not None:
                return change
        return None
    return None if before == now else f"`{path}` was {_brief(before)} and is {_brief(now)}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
