"""Loading of model folders: the task and its model as they were saved.

Entry points: `load_folder`, and `local_folder`, which finds a folder on the Hub. `model_folder` writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.base import BaseOptions
from topwork.errors import CheckpointError, PluginError
from topwork.items import Json
from topwork.saving.alterations import alterations
from topwork.saving.manifest import (
    PLAIN_WEIGHTS,
    PROGRAM,
    read_manifest,
    saved_by,
    task_of,
)
from topwork.saving.parts import TaskParts, graft
from topwork.saving.weights import (
    check_content,
    check_file,
    check_numbers,
    dtypes,
    load_weights,
)
from topwork.task import State

if TYPE_CHECKING:
    from torch import nn

    from topwork.base import Base
    from topwork.plugins.registry import Plugins
    from topwork.task import Task

#: what a model folder on the Hub is made of; a repository may hold more
_FILES = (
    "*.json",
    "*.safetensors",
    "*.onnx",
    "*.onnx.data",
    "*.pt2",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.py",
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def count_tensors(folder: Path) -> int:
    """Return the number of tensors in the safetensors files of a folder.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    return sum(len(dtypes(file)) for file in folder.glob("*.safetensors"))


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """Return a folder as it is; for the id of a Hub repository, its copy in the local cache, fetched if need be.

    Args:
        folder: a path or an id.
        revision: branch, tag or commit of the repository.

    Raises:
        CheckpointError: it is neither a folder nor a repository that can be had.
    """
    if os.path.exists(Path(folder).expanduser()) or not _REPOSITORY.fullmatch(str(folder)):
        return Path(folder).expanduser()
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(str(folder), revision=revision, allow_patterns=list(_FILES)))
    except Exception as error:
        hint = "correct the path or the id; log in if the repository is private (`hf auth login`)"
        if constants.HF_HUB_OFFLINE:
            hint = f"correct the path, or fetch the repository once online (`hf download {folder}`)"
        cause = f"there is no such folder, and it cannot be had from the Hub ({type(error).__name__})"
        raise CheckpointError(cause, place=f"{folder}" + (f" at {revision}" if revision else ""), hint=hint) from error


def load_folder(folder: Path, plugins: Plugins, *, trust_remote_code: bool = False) -> TaskParts:
    """Load the task and its model as they were saved; the original weights of the base are not needed.

    Args:
        folder: what `save_folder` wrote.
        plugins: who brings the task and puts back what was altered.
        trust_remote_code: run Python code that lies in the folder, if the model needs it.

    Raises:
        CheckpointError: the folder is damaged, or needs code that is not trusted.
        PluginError: the task, or what was altered in the model, belongs to a plugin that is not loaded.
    """
    saved = read_manifest(folder)
    if saved["task"] is None:
        raise CheckpointError(
            "this is a model without a task", place=str(folder), hint="topwork.from_pretrained(folder)"
        )
    task_class = task_of(saved, plugins, folder, trusted=trust_remote_code)
    check_contents(saved, folder)
    # a plain model of one base is loaded by transformers; of several bases only the configs are kept, each for itself
    plainly = saved["weights"] == PLAIN_WEIGHTS and len(saved["bases"]) == 1
    bases = _bases(saved, folder, plugins, plainly, trust_remote_code)
    processors = _processors(saved, folder, bases, plugins)
    chosen = _options(task_class, saved, folder)
    _check_state(task_class, saved, folder)
    check_whole(saved, folder)
    state = State(saved["state"], processors)
    task, model, form = _built(task_class, bases, chosen, state, plugins, plainly, saved, folder)
    program = saved["weights"] == PROGRAM
    if saved["alterations"] and not program:
        put_back(model, saved["alterations"], plugins, folder)
    if not plainly and not program:
        load_weights(model, folder / saved["weights"], saved["aliases"])
    if not plainly and (folder / "generation_config.json").is_file() and hasattr(model, "generation_config"):
        generation: Any = model.generation_config
        model.generation_config = type(generation).from_pretrained(folder)
    if program:
        model = _open_program(saved, folder, model, plugins, trusted=trust_remote_code)
    check_numbers(model, folder)
    model.eval()
    return TaskParts(task, model, plugins, form, saved["bases"])


def _check_state(task_class: type[Task], saved: Mapping[str, Json], folder: Path) -> None:
    try:
        task_class.check_state(saved["state"])
    except CheckpointError as error:
        error.place = str(folder)
        raise


def _built(
    task_class: type[Task],
    bases: dict[str, Base],
    options: Any,
    state: State,
    plugins: Plugins,
    weights: bool,
    saved: Mapping[str, Json],
    folder: Path,
) -> tuple[Task, nn.Module, str]:
    """Return the task and its model, and the form in which it was built.

    Raises:
        CheckpointError: the state does not fit the task, or another plugin had built the model.
    """
    try:
        task = task_class(bases, options, state)
        model, form = graft(task, plugins, weights=weights)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        cause = f"what the task had learned does not fit it ({type(error).__name__}: {error})"
        raise CheckpointError(cause, place=str(folder), hint=saved_by(saved)) from error
    if form != saved["form"]:
        raise CheckpointError(
            f"the model was saved in the form `{saved['form']}` and is now built as `{form}`",
            place=str(folder),
            hint="install the plugin that built it",
        )
    return task, model, form


def _bases(saved: Mapping[str, Json], folder: Path, plugins: Plugins, weights: bool, trusted: bool) -> dict[str, Base]:
    bases = {}
    for role, base in saved["bases"].items():
        options_saved = base["options"]
        options = BaseOptions(
            model=str(folder if len(saved["bases"]) == 1 else folder / role),
            weights=weights,
            dtype="auto",  # as the weights were saved, whatever the base was opened in
            attention=options_saved["attention"] if isinstance(options_saved.get("attention"), str) else None,
            trust_remote_code=trusted and bool(options_saved.get("trust_remote_code")),
        )
        bases[role] = plugins.load_base(options)
    return bases


def _processors(saved: Mapping[str, Json], folder: Path, bases: Mapping[str, Base], plugins: Plugins) -> dict[str, Any]:
    processors = {}
    for kind in saved["processors"]:
        role, _, name = kind.rpartition("/")
        first = next(iter(bases.values()))
        if role in bases:
            processors[kind] = bases[role].processor(name)
        elif len(bases) == 1:
            # of a model with two tokenizers the folder is part of the kind, no name of a base
            processors[kind] = first.processor(kind)
        else:  # one processor of all bases lies beside the manifest
            shared = plugins.load_base(first.options.model_copy(update={"processor": str(folder)}))
            processors[kind] = shared.processor(kind)
        if processors[kind] is None:
            raise CheckpointError(f"the {kind} is missing", place=str(folder))
    return processors


def check_whole(saved: Mapping[str, Json], folder: Path) -> None:
    """Compare the weights with what was saved: transformers would make up a task head whose weights are missing.

    Raises:
        CheckpointError: the weights are missing or cannot be read, were changed, or tensors are missing.
    """
    files = saved.get("files", {})
    for name in files:
        if not (folder / name).is_file():
            raise CheckpointError("the weights are missing", place=str(folder / name), hint="copy the folder again")
    there = count_tensors(folder)
    if there != saved["tensors"]:
        location = folder / next(iter(files)) if len(files) == 1 else folder
        raise CheckpointError(f"there are {there} tensors, {saved['tensors']} were saved", place=str(location))
    for name, known in files.items():
        check_file(folder / name, known)


def check_contents(saved: Mapping[str, Json], folder: Path) -> None:
    """Compare the files beside the weights with what was saved, before anything is made of them.

    Raises:
        CheckpointError: names a file that is missing, cut short or changed.
    """
    for name, known in saved.get("contents", {}).items():
        check_content(folder / name, known)


def _options(task_class: Any, saved: Mapping[str, Json], folder: Path) -> Any:
    from pydantic import ValidationError

    try:
        return task_class.Options(**saved["options"])
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"the saved option `{'.'.join(map(str, first['loc']))}` does not fit task {saved['task']}: {first['msg']}",
            place=str(folder),
            hint=saved_by(saved),
        ) from error


def _open_program(saved: Mapping[str, Json], folder: Path, model: nn.Module, plugins: Plugins, *, trusted: bool) -> Any:
    """Return the model that runs the exported program of a folder, made by a plugin.

    Args:
        saved: the manifest.
        folder: of the model.
        model: as it was built of its configs, without weights.
        plugins: one of them runs the program.
        trusted: whoever loads the folder lets its code run.

    Raises:
        CheckpointError: no loaded plugin runs programs of this format.
    """
    section = saved["program"]
    opened = plugins.hook.load_program(folder=folder, program=section, model=model, trusted=trusted)
    if opened is None:
        raise CheckpointError(
            f"no loaded plugin runs programs of the format `{section['format']}`",
            place=str(folder),
            hint="see `topwork plugins`, or load the folder that was exported",
        )
    return opened


def put_back(model: nn.Module, sections: Mapping[str, Json], plugins: Plugins, folder: Path) -> None:
    """Let plugins restore the structural changes of a model before its weights are loaded.

    Args:
        model: as it was built.
        sections: of the manifest's `alterations`, by plugin.
        plugins: who restores them.
        folder: of the model, for messages.

    Raises:
        PluginError: no plugin restored a section.
    """
    plugins.hook.model_rebuilt(model=model, alterations=sections, plugins=plugins)
    if missing := sorted(set(sections) - set(alterations(model))):
        raise PluginError(
            f"nobody put back what `{missing[0]}` had altered in the model",
            place=str(folder),
            hint="load the plugin that wrote it (see `topwork plugins`)",
        )
