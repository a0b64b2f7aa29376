"""The manifest of a model folder: what topwork needs to make the model again.

Entry points: `manifest` makes one, `write_manifest` writes it, `read_manifest` reads and checks it before anything of
it is used, because a folder may come from anybody. A manifest names no files but the two that weights lie in and no
folders but those of the task's bases, and nothing of it is executed. Whether Python code beside the weights may run is
decided by whoever loads the folder, never by the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import CheckpointError, PluginError, TopworkError
from topwork.files import plain, write_json
from topwork.saving.alterations import alterations
from topwork.saving.checksum import check_checksum, with_checksum

if TYPE_CHECKING:
    from topwork.items import Json
    from topwork.plugins.registry import Plugins
    from topwork.saving.parts import TaskParts

MANIFEST = "topwork.json"
FORMAT = 1
#: the two files that weights lie in
PLAIN_WEIGHTS, WEIGHTS = "model.safetensors", "topwork.safetensors"
#: what stands for them in the manifest of an exported model, whose section `program` describes the files
PROGRAM = "program"

_TYPES: dict[str, type] = {
    "weights": str,
    "alterations": dict,
    "aliases": dict,
    "tensors": int,
    "options": dict,
    "state": dict,
    "processors": list,
    "form": str,
    "bases": dict,
    "class": str,
    "dtype": str,
}


def manifest(work: TaskParts, plainly: bool, aliases: Mapping[str, str]) -> dict[str, Json]:
    """Return what topwork needs to make the model again: JSON, nothing of it is executed.

    Args:
        work: the task and its model.
        plainly: the weights lie in a file that plain transformers loads.
        aliases: names of tensors that are not in the file -> the name of the stored tensor that they share.
    """
    task = work.task
    owner = work.plugins.owner("task", task.name)
    return {
        "format": FORMAT,
        "topwork": written_by(),
        "task": task.name,
        "plugin": {"name": owner.name, "package": owner.package, "version": owner.version},
        "options": task.options.model_dump(mode="json"),
        "state": plain(task.state.values),
        "processors": sorted(task.state.processors),
        "form": work.form,
        "weights": PLAIN_WEIGHTS if plainly else WEIGHTS,
        "bases": work.origins or {role: _origin(base) for role, base in task.bases.items()},
        "alterations": plain(alterations(work.model)),
        "aliases": dict(aliases),
    }


def _origin(base: Any) -> dict[str, Json]:
    """Return where a base came from; a local folder is named without its path, which has no meaning elsewhere."""
    description = {
        "origin": _without_paths(plain(base.origin)),
        "options": base.options.model_dump(mode="json", exclude_defaults=True),
    }
    for part in description.values():
        for key in ("model", "processor"):
            if isinstance(part.get(key), str) and os.path.isdir(Path(part[key]).expanduser()):
                part[key] = f"./{Path(part[key]).resolve().name}"
    return description


def _without_paths(value: Json) -> Json:
    """Return a config without the entries in which transformers notes from where it was read."""
    if not isinstance(value, dict):
        return value
    return {key: _without_paths(entry) for key, entry in value.items() if key not in ("_name_or_path", "name_or_path")}


def written_by() -> str:
    """Return the version of topwork that writes."""
    import topwork

    return topwork.__version__


def read_manifest(folder: Path) -> dict[str, Json]:
    """Return the manifest of a model folder.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of a newer format.
    """
    file = folder / MANIFEST
    _check_kinds(folder)
    if not file.is_file():
        raise CheckpointError(
            f"there is no {MANIFEST}",
            place=str(folder),
            hint="give a folder that topwork saved; a plain model folder is a base: name it under `base`",
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        format_number = int(content["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"the manifest is damaged ({error})", place=str(file)) from error
    if format_number > FORMAT:
        raise CheckpointError(
            f"the folder was written by topwork {content.get('topwork')}, in a newer format",
            place=str(file),
            hint="install that version",
        )
    check_manifest(content, file)
    check_checksum(content, file)
    return content


def write_manifest(folder: Path, content: Mapping[str, Json]) -> None:
    """Write the manifest of a model folder, with its own checksum."""
    write_json(folder / MANIFEST, with_checksum(content))


def check_manifest(content: Mapping[str, Json], file: Path) -> None:
    """Refuse a manifest that is not as topwork writes it.

    Raises:
        CheckpointError: says what is wrong.
    """
    task = content.get("task")
    needed = ["task", "weights", "alterations", "aliases", "tensors"]
    needed += ["class", "dtype"] if task is None else ["options", "state", "processors", "form", "bases"]
    if missing := [key for key in needed if key not in content]:
        raise _damaged(file, f"it lacks `{missing[0]}`")
    for key in needed[1:]:
        if type(content[key]) is not _TYPES[key]:
            raise _damaged(file, f"`{key}` is {type(content[key]).__name__}, not {_TYPES[key].__name__}")
    if task is not None and not isinstance(task, str):
        raise _damaged(file, "`task` is no name")
    if content["weights"] == PROGRAM:
        _check_program(content, file)
    elif content["weights"] not in (PLAIN_WEIGHTS, WEIGHTS):
        raise _damaged(file, f"its weights are `{content['weights']}`")
    texts = [*content["aliases"].values(), *content.get("processors", ())]
    if not all(isinstance(text, str) for text in texts):
        raise _damaged(file, "names of tensors and processors are texts")
    files = content.get("files", {})
    if not isinstance(files, dict) or not all(_describes_file(name, known) for name, known in files.items()):
        raise _damaged(file, "`files` describes no files of weights")
    contents = content.get("contents", {})
    if not isinstance(contents, dict) or not all(_describes_content(name, known) for name, known in contents.items()):
        raise _damaged(file, "`contents` describes no files of the folder")
    if any(part in ("", ".", "..") for kind in content.get("processors", ()) for part in kind.split("/")):
        raise _damaged(file, "a processor lies outside the folder")
    for role, base in content.get("bases", {}).items():
        if not isinstance(base, dict) or not isinstance(base.get("options"), dict):
            raise _damaged(file, f"the base `{role}` has no options")


def _check_program(content: Mapping[str, Json], file: Path) -> None:
    program = content.get("program")
    if not isinstance(program, dict) or not isinstance(program.get("format"), str) or content["task"] is None:
        raise _damaged(file, "`program` describes no exported model")


def _check_kinds(folder: Path) -> None:
    """Refuse a folder that holds something else than files and folders: reading a pipe would wait for ever.

    Raises:
        CheckpointError: names the pipe, socket or device.
    """
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CheckpointError(
                "this is no regular file but a pipe, socket or device", place=str(path), hint="copy the folder again"
            )


def _describes_file(name: str, known: Json) -> bool:
    hashed = isinstance(known, dict) and isinstance(known.get("sha256"), str) and isinstance(known.get("dtypes"), list)
    return hashed and name == Path(name).name


def _describes_content(name: str, known: Json) -> bool:
    hashed = isinstance(known, dict) and isinstance(known.get("sha256"), str) and isinstance(known.get("size"), int)
    return hashed and bool(name) and not any(part in ("", ".", "..") for part in name.split("/"))


def task_of(content: Mapping[str, Json], plugins: Plugins, folder: Path, *, trusted: bool) -> Any:
    """Return the task class that a manifest means.

    Args:
        content: of the manifest.
        plugins: the loaded plugins.
        folder: of the model, for messages.
        trusted: whoever loads the folder lets its Python code run.

    Raises:
        PluginError: no loaded plugin has the task.
        CheckpointError: the bases are not those of the task, or only run with code that nobody has allowed.
    """
    try:
        task_class = plugins.task(content["task"])
    except TopworkError as error:
        raise PluginError(
            f"the model is of task `{content['task']}`, which no loaded plugin has",
            place=str(folder),
            hint=f"{saved_by(content)} ({error})",
        ) from error
    if not task_class.fits(content["bases"]):
        raise CheckpointError(
            f"the manifest has bases for {', '.join(content['bases']) or 'nothing'}, task {content['task']} needs "
            f"{', '.join(task_class.nearest_roles(content['bases']))}",
            place=str(folder),
        )
    if not trusted and any(base["options"].get("trust_remote_code") for base in content["bases"].values()):
        raise CheckpointError(
            "the model runs with Python code that lies beside its weights",
            place=str(folder),
            hint="if you trust it, topwork.load(folder, trust_remote_code=True)",
        )
    return task_class


def saved_by(content: Mapping[str, Json]) -> str:
    """Return what to install for a model that does not fit."""
    plugin = content.get("plugin")
    if not isinstance(plugin, dict):
        return "install the plugin that saved it"
    return f"install {plugin.get('package')} {plugin.get('version')}, which saved it"


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"the manifest is damaged ({what})", place=str(file))
