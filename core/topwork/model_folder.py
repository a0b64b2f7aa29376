"""A model folder: a Hub-style folder with topwork's manifest beside the weights.

A native, unaltered model lies in `model.safetensors` and loads in plain transformers. Everything else (a generic task
head, a pruned or gated model) lies in `topwork.safetensors`, so that nothing else can load it wrong. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from topwork.altering import alterations
from topwork.base import BaseOptions
from topwork.errors import CheckpointError, PluginError, TopworkError, UsageError
from topwork.files import plain, write_json, write_text, write_whole
from topwork.items import Json
from topwork.model_card import model_card
from topwork.weights import load_weights, save_weights

if TYPE_CHECKING:
    from torch import nn

    from topwork.plugins import Plugins
    from topwork.task_model import TaskModel

MANIFEST = "topwork.json"
WEIGHTS = "topwork.safetensors"
FORMAT = 1


def save_folder(work: TaskModel, folder: Path, card: Mapping[str, Json] | None = None) -> Path:
    """Write a model folder, whole or not at all (a folder that was there is replaced).

    Args:
        card: numbers for the model card (metric name -> value).

    Raises:
        UsageError: the folder holds something else than a model of topwork; it is not replaced.
    """
    writable(folder)
    with write_whole(folder) as temporary:
        temporary.mkdir()
        plainly = is_plain(work)
        _save_configs(work, temporary)
        aliases: dict[str, str] = {}
        if plainly:
            cast(Any, work.model).save_pretrained(temporary)
            if len(work.task.bases) > 1:
                aliases = _left_out(work.model, temporary / "model.safetensors")
        else:
            aliases = save_weights(work.model, temporary / WEIGHTS)
            if (generation := getattr(work.model, "generation_config", None)) is not None:
                generation.save_pretrained(temporary)
        for kind, processor in work.task.state.processors.items():
            processor.save_pretrained(temporary / Path(kind).parent)
        write_json(temporary / MANIFEST, {**manifest(work, plainly, aliases), "tensors": count_tensors(temporary)})
        write_text(temporary / "README.md", model_card(work, plainly, card or {}))
    return folder


def writable(folder: Path) -> None:
    """Only what topwork wrote is replaced.

    Raises:
        UsageError: there is something else.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UsageError(
            f"there is something else than a model folder (no {MANIFEST})", place=str(folder), mend="name another one"
        )


def _left_out(model: nn.Module, file: Path) -> dict[str, str]:
    """Names of tied tensors that transformers did not write -> the name under which it wrote the tensor."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        written = set(stored.keys())
    state = model.state_dict()
    found = {(state[name].data_ptr(), tuple(state[name].shape)): name for name in written}
    return {
        name: found[tensor.data_ptr(), tuple(tensor.shape)]
        for name, tensor in state.items()
        if name not in written and (tensor.data_ptr(), tuple(tensor.shape)) in found
    }


def is_plain(work: TaskModel) -> bool:
    """Whether plain transformers can load the model by itself: a native class, nothing altered."""
    from transformers import PreTrainedModel

    return work.form == "native" and isinstance(work.model, PreTrainedModel) and not alterations(work.model)


def manifest(work: TaskModel, plainly: bool, aliases: Mapping[str, str]) -> dict[str, Json]:
    """What topwork needs to make the model again: JSON, nothing of it is executed."""
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
        "weights": "model.safetensors" if plainly else WEIGHTS,
        "bases": work.origins or {role: _origin(base) for role, base in task.bases.items()},
        "alterations": plain(alterations(work.model)),
        "aliases": dict(aliases),
    }


def _origin(base: Any) -> dict[str, Json]:
    """Where a base came from. A local folder is named without its path: that says nothing on another machine."""
    said = {
        "origin": _without_paths(plain(base.origin)),
        "options": base.options.model_dump(mode="json", exclude_defaults=True),
    }
    for part in said.values():
        for key in ("model", "processor"):
            if isinstance(part.get(key), str) and Path(part[key]).expanduser().is_dir():
                part[key] = f"./{Path(part[key]).resolve().name}"
    return said


def _without_paths(value: Json) -> Json:
    """Without the entries in which transformers notes from where it read a config."""
    if not isinstance(value, dict):
        return value
    return {key: _without_paths(entry) for key, entry in value.items() if key not in ("_name_or_path", "name_or_path")}


def count_tensors(folder: Path) -> int:
    from safetensors import safe_open

    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            count += len(stored.keys())
    return count


def written_by() -> str:
    import topwork

    return topwork.__version__


def _save_configs(work: TaskModel, folder: Path) -> None:
    """The config of each base (its own folder when there are several), so that it can be made again without weights."""
    from transformers import PreTrainedModel

    task = work.task
    config = getattr(work.model, "config", None)
    for role, base in task.bases.items():
        target = folder if len(task.bases) == 1 else folder / role
        target.mkdir(exist_ok=True)
        chosen = config if len(task.bases) == 1 and config is not None else base.config
        chosen.save_pretrained(target)
    if len(task.bases) > 1 and isinstance(work.model, PreTrainedModel):
        work.model.config.save_pretrained(folder)  # a model of several bases that is one model of transformers


def read_manifest(folder: Path) -> dict[str, Json]:
    """The manifest of a model folder.

    Raises:
        CheckpointError: there is none, or it is of a newer format.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise CheckpointError(
            f"there is no {MANIFEST}",
            place=str(folder),
            mend="give a folder that topwork saved; a plain model folder is a base: name it under `base`",
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        number = int(found["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the manifest is damaged ({error})", place=str(file)) from error
    needed = ["task", "weights", "alterations", "aliases", "tensors"]
    needed += ["class", "dtype"] if found.get("task") is None else ["options", "state", "processors", "form", "bases"]
    if missing := [key for key in needed if key not in found]:
        raise CheckpointError(f"the manifest is damaged (it lacks `{missing[0]}`)", place=str(file))
    if number > FORMAT:
        raise CheckpointError(
            f"the folder was written by topwork {found.get('topwork')}, in a newer format",
            place=str(file),
            mend="install that version",
        )
    return found


def load_folder(folder: Path, plugins: Plugins) -> TaskModel:
    """The task and its model as they were saved; the original weights of the base are not needed."""
    from topwork.task import State
    from topwork.task_model import TaskModel, graft

    found = read_manifest(folder)
    if found["task"] is None:
        raise CheckpointError(
            "this is a model without a task", place=str(folder), mend="topwork.from_pretrained(folder)"
        )
    task_class = _task_class(found, plugins, folder)
    # a plain model of one base is loaded by transformers; of several bases only the configs are kept, each for itself
    plainly = found["weights"] == "model.safetensors" and len(found["bases"]) == 1
    bases = {}
    for role in found["bases"]:
        place = folder if len(found["bases"]) == 1 else folder / role
        said = found["bases"][role]["options"]
        kept = {key: said[key] for key in ("attention", "trust_remote_code") if key in said}
        kept["dtype"] = "auto"  # as the weights were saved, whatever the base was opened in
        bases[role] = plugins.load_base(BaseOptions(model=str(place), weights=plainly, **kept))
    processors = {}
    for kind in found["processors"]:
        role, _, name = kind.rpartition("/")
        # of a model of one base with two tokenizers the folder is part of the kind, no name of a base
        owner = bases.get(role)
        processors[kind] = next(iter(bases.values())).processor(kind) if owner is None else owner.processor(name)
        if processors[kind] is None:
            raise CheckpointError(f"the {kind} is missing", place=str(folder))
    options = _options(task_class, found, folder)
    task = task_class(bases, options, State(found["state"], processors))
    check_whole(found, folder)
    model, form = graft(task, plugins, weights=plainly)
    if form != found["form"]:
        raise CheckpointError(
            f"the model was saved in the form `{found['form']}` and is now built as `{form}`",
            place=str(folder),
            mend="install the plugin that built it",
        )
    if found["alterations"]:
        put_back(model, found["alterations"], plugins, folder)
    if not plainly:
        load_weights(model, folder / found["weights"], found["aliases"])
        if (folder / "generation_config.json").is_file() and hasattr(model, "generation_config"):
            generation: Any = model.generation_config
            model.generation_config = type(generation).from_pretrained(folder)
    model.eval()
    return TaskModel(task, model, plugins, form, found["bases"])


def check_whole(found: Mapping[str, Json], folder: Path) -> None:
    """The weights are those that were saved: transformers would make up a task head whose weights are missing.

    Raises:
        CheckpointError: the weights are missing or cannot be read, or tensors are missing.
    """
    from safetensors import SafetensorError

    try:
        there = count_tensors(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights: {error}", place=str(folder)) from error
    if there != found["tensors"]:
        raise CheckpointError(f"there are {there} tensors, {found['tensors']} were saved", place=str(folder))


def _options(task_class: Any, found: Mapping[str, Json], folder: Path) -> Any:
    from pydantic import ValidationError

    try:
        return task_class.Options(**found["options"])
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"the saved option `{'.'.join(map(str, first['loc']))}` does not fit task {found['task']}: {first['msg']}",
            place=str(folder),
            mend=f"install {found['plugin']['package']} {found['plugin']['version']}, which saved it",
        ) from error


def _task_class(found: Mapping[str, Json], plugins: Plugins, folder: Path) -> Any:
    try:
        return plugins.task(found["task"])
    except TopworkError as error:
        plugin = found.get("plugin", {})
        raise PluginError(
            f"the model is of task `{found['task']}`, which no loaded plugin has",
            place=str(folder),
            mend=f"install {plugin.get('package')} {plugin.get('version')} ({error})",
        ) from error


def put_back(model: nn.Module, sections: Mapping[str, Json], plugins: Plugins, folder: Path) -> None:
    plugins.hook.model_rebuilt(model=model, alterations=sections, plugins=plugins)
    if missing := sorted(set(sections) - set(alterations(model))):
        raise PluginError(
            f"nobody put back what `{missing[0]}` had altered in the model",
            place=str(folder),
            mend="load the plugin that wrote it (see `topwork plugins`)",
        )
