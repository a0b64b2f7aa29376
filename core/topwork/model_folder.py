"""A model folder: a Hub-style folder with topwork's manifest beside the weights.

A native, unaltered model lies in `model.safetensors` and loads in plain transformers. Everything else (a generic task
head, a pruned or gated model) lies in `topwork.safetensors`, so that nothing else can load it wrong. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from topwork.alterations import alterations
from topwork.base import BaseOptions
from topwork.errors import CheckpointError, PluginError, TopworkError
from topwork.files import plain, write_json, write_text, write_whole
from topwork.items import Json

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
        card: numbers for the model card's front matter (metric name -> value).
    """
    with write_whole(folder) as temporary:
        temporary.mkdir()
        plainly = is_plain(work)
        _save_configs(work, temporary)
        if plainly:
            cast(Any, work.model).save_pretrained(temporary)
            aliases: dict[str, str] = {}
        else:
            aliases = save_weights(work.model, temporary / WEIGHTS)
        for kind, processor in work.task.state.processors.items():
            processor.save_pretrained(temporary / Path(kind).parent)
        write_json(temporary / MANIFEST, manifest(work, plainly, aliases))
        write_text(temporary / "README.md", model_card(work, plainly, card or {}))
    return folder


def is_plain(work: TaskModel) -> bool:
    """Whether plain transformers can load the model by itself: a native class, nothing altered, one base."""
    from transformers import PreTrainedModel

    return work.form == "native" and isinstance(work.model, PreTrainedModel) and not alterations(work.model)


def manifest(work: TaskModel, plainly: bool, aliases: Mapping[str, str]) -> dict[str, Json]:
    """What topwork needs to make the model again: JSON, nothing of it is executed."""
    task = work.task
    owner = work.plugins.owner("task", task.name)
    return {
        "format": FORMAT,
        "topwork": _version(),
        "task": task.name,
        "plugin": {"name": owner.name, "package": owner.package, "version": owner.version},
        "options": task.options.model_dump(mode="json"),
        "state": plain(task.state.values),
        "processors": sorted(task.state.processors),
        "form": work.form,
        "weights": "model.safetensors" if plainly else WEIGHTS,
        "bases": {
            role: {"origin": plain(base.origin), "options": base.options.model_dump(mode="json", exclude_defaults=True)}
            for role, base in task.bases.items()
        },
        "alterations": plain(alterations(work.model)),
        "aliases": dict(aliases),
    }


def _version() -> str:
    import topwork

    return topwork.__version__


def _save_configs(work: TaskModel, folder: Path) -> None:
    """The config of each base (its own folder when there are several), so that it can be made again without weights."""
    task = work.task
    config = getattr(work.model, "config", None)
    for role, base in task.bases.items():
        target = folder if len(task.bases) == 1 else folder / role
        target.mkdir(exist_ok=True)
        chosen = config if len(task.bases) == 1 and config is not None else base.config
        chosen.save_pretrained(target)


def save_weights(model: nn.Module, file: Path, state: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Write every tensor of the state dict once.

    Args:
        state: a state dict to write instead of the model's own (gathered from several processes).

    Returns:
        aliases: names of shared tensors -> the name under which the tensor is stored.
    """
    from safetensors.torch import save_file

    tensors, aliases = distinct(model.state_dict() if state is None else state)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt", "producer": "topwork"})
    return aliases


def distinct(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a state dict without repetitions, and for each repeated name the one that stands for it."""
    stored: dict[tuple, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Any] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in stored:
            aliases[name] = stored[key]
        else:
            stored[key] = name
            tensors[name] = tensor
    return tensors, aliases


def load_weights(model: nn.Module, file: Path, aliases: Mapping[str, str] | None = None) -> None:
    """Put stored tensors into a model of the same shape, strictly: every tensor of the model must be there, of the
    same shape, and none may be left over. The model takes over the stored dtype.

    Raises:
        CheckpointError: names the tensors that are missing, left over or of another shape.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights: {error}", place=str(file)) from error
    stored.update({alias: stored[name] for alias, name in (aliases or {}).items() if name in stored})
    state = model.state_dict(keep_vars=True)
    faults = [f"missing {name}" for name in state if name not in stored]
    faults += [f"left over {name}" for name in stored if name not in state]
    faults += [
        f"{name} is {tuple(stored[name].shape)}, the model wants {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name in stored and stored[name].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(f"the weights do not fit the model: {'; '.join(faults[:5])}", place=str(file))
    moved: dict[int, Any] = {}  # a shared tensor stays shared on whatever device
    with torch.no_grad():
        for name, tensor in state.items():
            source = stored[name]
            tensor.data = moved.setdefault(id(source), source.to(device=tensor.device))


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
    task_class = _task_class(found, plugins, folder)
    plainly = found["weights"] == "model.safetensors"
    bases = {}
    for role in task_class.roles:
        place = folder if len(task_class.roles) == 1 else folder / role
        said = found["bases"][role]["options"]
        kept = {key: said[key] for key in ("dtype", "attention", "trust_remote_code") if key in said}
        bases[role] = plugins.load_base(BaseOptions(model=str(place), weights=plainly, **kept))
    processors = {}
    for kind in found["processors"]:
        role, _, name = kind.rpartition("/")
        processors[kind] = bases[role or task_class.roles[0]].processor(name)
        if processors[kind] is None:
            raise CheckpointError(f"the {kind} is missing", place=str(folder))
    options = task_class.Options(**found["options"])
    task = task_class(bases, options, State(found["state"], processors))
    model, form = graft(task, plugins, weights=plainly)
    if form != found["form"]:
        raise CheckpointError(
            f"the model was saved in the form `{found['form']}` and is now built as `{form}`",
            place=str(folder),
            mend="install the plugin that built it",
        )
    if found["alterations"]:
        _put_back(model, found["alterations"], plugins, folder)
    if not plainly:
        load_weights(model, folder / found["weights"], found["aliases"])
    model.eval()
    return TaskModel(task, model, plugins, form)


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


def _put_back(model: nn.Module, sections: Mapping[str, Json], plugins: Plugins, folder: Path) -> None:
    plugins.hook.model_rebuilt(model=model, alterations=sections, plugins=plugins)
    if missing := sorted(set(sections) - set(alterations(model))):
        raise PluginError(
            f"nobody put back what `{missing[0]}` had altered in the model",
            place=str(folder),
            mend="load the plugin that wrote it (see `topwork plugins`)",
        )


def model_card(work: TaskModel, plainly: bool, numbers: Mapping[str, Json]) -> str:
    """The README.md of a model folder, with the Hub's front matter."""
    import yaml

    task = work.task
    origin = next(iter(task.bases.values())).origin
    front: dict[str, Json] = {
        "library_name": "transformers" if plainly else "topwork",
        "pipeline_tag": task.name,
        "tags": ["topwork"],
    }
    if origin.get("model") and not Path(str(origin["model"])).exists():
        front["base_model"] = origin["model"]
    lines = [f"---\n{yaml.safe_dump(front, sort_keys=False)}---", f"# {task.name}", ""]
    count = sum(parameter.numel() for parameter in work.model.parameters())
    lines.append(f"{type(work.model).__name__}, {count:,} parameters, made with topwork.")
    lines.append("")
    how = "It loads in plain transformers, and with" if plainly else "It loads with topwork alone:"
    lines += [how, "", "```python", "import topwork", "", 'work = topwork.load("path/of/this/folder")', "```", ""]
    lines += [f"- {key}: {value}" for key, value in task.describe().items()]
    if numbers:
        lines += [
            "",
            "| metric | value |",
            "|---|---|",
            *(f"| {key} | {value:.4f} |" for key, value in numbers.items()),
        ]
    return "\n".join(lines) + "\n"
