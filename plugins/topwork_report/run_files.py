"""Reads a run folder: everything that the page shows comes through here, and every fault of a file is noted here.

A missing or damaged file never stops the page: it is named in `RunFiles.problems`, which the page prints on top.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from topwork import Json, UsageError, changed_outputs
from topwork_report.step_log import logged_steps

_STAGE_FOLDER = re.compile(r"(\d+)-(.+)")
# Artefacts that the page understands, beside result.json, and the type that each must have.
_ARTEFACTS: dict[str, type] = {"attention.json": dict, "pictures.json": list, "predictions.json": dict}


@dataclass(frozen=True)
class StageFiles:
    """Files of a stage: its position in the recipe (from 1), its folder's name, and the contents."""

    number: int
    name: str
    folder: Path
    seconds: float | None
    options: dict[str, Json]
    result: dict[str, Json]
    artefacts: dict[str, Json]
    is_repeated: bool = False

    @property
    def anchor(self) -> str:
        """The address of the stage's section on the page; with its name where another stage has the same position."""
        return f"stage-{self.number}{f'-{self.folder.name}' if self.is_repeated else ''}"


@dataclass
class RunFiles:
    """Contents of a run folder: `about` is run.json, `recipe` recipe.yaml; both are empty when the file is bad."""

    folder: Path
    about: dict[str, Json] = field(default_factory=dict)
    recipe: dict[str, Json] = field(default_factory=dict)
    recipe_text: str = ""
    stages: list[StageFiles] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def name_of(self, file: Path) -> str:
        """Return the path of a file relative to the run folder."""
        return file.relative_to(self.folder).as_posix()

    def problem(self, file: Path, what: str) -> None:
        """Note that a file cannot be shown; the page prints these notes on top."""
        self.problems.append(f"{self.name_of(file)}: {what}")


def read_run(folder: Path, without: str | None = None, *, live: bool = False) -> RunFiles:
    """Read a run folder.

    Args:
        folder: the run folder.
        without: name of a stage folder to leave out: the one of the stage that is making the page.
        live: a stage without a result goes on: it is shown with what its training has logged so far.

    Raises:
        UsageError: there is no such folder, or it has neither run.json nor stages/.
    """
    if not folder.is_dir():
        raise UsageError("there is no such folder", place=str(folder), hint="give the folder of a run")
    if not (folder / "run.json").is_file() and not (folder / "stages").is_dir():
        hint = "give the folder that `topwork run` wrote: it holds run.json and stages/"
        raise UsageError("this folder is not a run", place=str(folder), hint=hint)
    run = RunFiles(folder)
    run.about = _read_json(run, folder / "run.json", dict) or {}
    _read_recipe(run)
    for path in sorted((folder / "stages").glob("*"), key=_position):
        if path.is_dir() and _STAGE_FOLDER.fullmatch(path.name) and path.name != without:
            if live and not (path / "result.json").exists():
                run.stages.append(_unfinished_stage(path, "running", logged_steps(path)))
            else:
                _read_stage(run, path, compare=not live)
    counts = Counter(stage.number for stage in run.stages)  # stages that were applied one by one are all the first
    run.stages = [replace(stage, is_repeated=counts[stage.number] > 1) for stage in run.stages]
    return run


def _unfinished_stage(stage_path: Path, state: str, history: list[dict[str, Any]]) -> StageFiles:
    """Return a stage without a result, with the numbers that its training has logged."""
    result: dict[str, Json] = {"state": state, **({"history": history} if history else {})}
    position, name = _position(stage_path)[0], stage_path.name.split("-", 1)[1]
    return StageFiles(position, name, stage_path, None, {}, result, {})


def number(value: Any) -> float | None:
    """Return the value when it is a finite number, else None: JSON written elsewhere may hold NaN, null or text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) != float("inf") and value == value else None


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among the values, in their order."""
    return {str(key): finite for key, value in values.items() if (finite := number(value)) is not None}


def count_in(values: Any, key: str) -> int | None:
    """Return the whole number, 0 or more, under a key of a JSON object; None when there is none."""
    value = values.get(key) if isinstance(values, dict) else None
    return value if type(value) is int and value >= 0 else None


def mappings(value: Any) -> list[dict[str, Any]]:
    """Return the dicts in a list; an empty list for anything else."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _position(stage_path: Path) -> tuple[int, str]:
    match = _STAGE_FOLDER.fullmatch(stage_path.name)
    return (int(match[1]) if match else -1, stage_path.name)


def _read_json(run: RunFiles, file: Path, kind: type) -> Any:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        run.problem(file, "the file is missing")
    except json.JSONDecodeError as error:
        run.problem(file, f"the file is damaged: it is not JSON (line {error.lineno}, column {error.colno})")
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        run.problem(file, f"the file cannot be read: {error}")
    else:
        if isinstance(value, kind):
            return value
        wanted = "an object" if kind is dict else "a list"
        run.problem(file, f"the file is damaged: it does not hold {wanted}")
    return None


def _read_recipe(run: RunFiles) -> None:
    import yaml

    file = run.folder / "recipe.yaml"
    try:
        run.recipe_text = file.read_text(encoding="utf-8")
        value = yaml.safe_load(run.recipe_text)
    except FileNotFoundError:
        run.problem(file, "the file is missing")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        run.problem(file, f"the file is damaged: {str(error).splitlines()[0]}")
    else:
        if isinstance(value, dict):
            run.recipe = value
        else:
            run.problem(file, "the file is damaged: it does not hold a mapping")


def _read_stage(run: RunFiles, stage_path: Path, *, compare: bool) -> None:
    """Read the result of a stage and the files that the page shows; `compare` all with what the stage has left."""
    file = stage_path / "result.json"
    if not file.exists():
        run.problem(file, "the file is missing: the stage did not finish, or its result was deleted")
        if history := logged_steps(stage_path):  # of a training that was killed
            run.stages.append(_unfinished_stage(stage_path, "not finished", history))
        return
    record = _read_json(run, file, dict)
    if record is None:
        return
    result = record.get("result")
    if not isinstance(result, dict):
        run.problem(file, "the file is damaged: `result` is not an object")
        return
    for changed, what in changed_outputs(stage_path) if compare else ():
        run.problem(changed, what)
    position, name = _position(stage_path)[0], stage_path.name.split("-", 1)[1]
    artefacts = {}
    for artefact, kind in _ARTEFACTS.items():
        if (stage_path / artefact).exists() and (value := _read_json(run, stage_path / artefact, kind)) is not None:
            artefacts[artefact] = value
    options = record.get("options") if isinstance(record.get("options"), dict) else {}
    seconds = number(record.get("seconds"))
    run.stages.append(
        StageFiles(position, str(record.get("stage") or name), stage_path, seconds, options or {}, result, artefacts)
    )
