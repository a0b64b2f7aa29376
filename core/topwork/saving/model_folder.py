"""A model folder: a Hub-style folder with topwork's manifest beside the weights.

Entry points: `save_folder`, `load_folder`, and `local_folder`, which finds a folder on the Hub.

A native, unaltered model lies in `model.safetensors` and loads in plain transformers. Everything else (a generic task
head, a pruned or gated model) lies in `topwork.safetensors`, so that nothing else can load it wrong. No pickle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from topwork.base import BaseOptions
from topwork.errors import CheckpointError, PluginError, TopworkError, UsageError
from topwork.files import write_json, write_text, write_whole
from topwork.items import Json, Row
from topwork.saving.alterations import alterations
from topwork.saving.manifest import (
    MANIFEST,
    PLAIN_WEIGHTS,
    PROGRAM,
    WEIGHTS,
    manifest,
    read_manifest,
    saved_by,
    task_of,
)
from topwork.saving.model_card import CardFacts, model_card
from topwork.saving.parts import TaskParts, graft
from topwork.saving.verification import silenced, unloadable, verify_losses, verify_model
from topwork.saving.weights import (
    check_content,
    check_file,
    check_numbers,
    check_tensors,
    describe_contents,
    describe_file,
    load_weights,
    save_weights,
)
from topwork.task import State

if TYPE_CHECKING:
    from torch import nn

    from topwork.base import Base
    from topwork.plugins.registry import Plugins

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


def save_folder(
    work: TaskParts,
    folder: Path,
    card: CardFacts | Mapping[str, Json] | None = None,
    rows: Sequence[Row] = (),
) -> Path:
    """Write a model folder, whole or not at all (a folder that was there is replaced), and prove that it loads.

    Args:
        work: the task and its model.
        folder: where to.
        card: facts for the model card, or metric name -> value.
        rows: a few rows with targets; their losses are compared with those of the model that was loaded.

    Returns:
        the folder.

    Raises:
        UsageError: the folder holds something else than a model of topwork; it is not replaced.
        CheckpointError: what was written does not give the same model when it is loaded; the error names what is
            missing, and nothing is left.
    """
    writable(folder)
    check_tensors(work.model.state_dict())
    work.plugins.hook.model_saving(model=work.model)
    with write_whole(folder) as temporary:
        temporary.mkdir()
        plainly = is_plain(work)
        save_configs(work, temporary)
        aliases: dict[str, str] = {}
        if plainly:
            cast(Any, work.model).save_pretrained(temporary)
            if len(work.task.bases) > 1:
                aliases = _left_out(work.model, temporary / PLAIN_WEIGHTS)
        else:
            aliases = save_weights(work.model, temporary / WEIGHTS)
            if (generation := getattr(work.model, "generation_config", None)) is not None:
                generation.save_pretrained(temporary)
        save_processors(work, temporary)
        files = {file.name: describe_file(file) for file in sorted(temporary.glob("*.safetensors"))}
        counted = {
            "tensors": count_tensors(temporary),
            "files": files,
            "contents": describe_contents(temporary),  # all but the manifest and the card, which come now
        }
        write_json(temporary / MANIFEST, {**manifest(work, plainly, aliases), **counted})
        write_text(temporary / "README.md", model_card(work, plainly, card))
        _verify(work, temporary, rows)
    return folder


def _verify(work: TaskParts, folder: Path, rows: Sequence[Row]) -> None:
    """Load what was just written, and compare it with the model."""
    trusted = any(base.options.trust_remote_code for base in work.task.bases.values())
    try:
        with silenced():
            parts = load_folder(folder, work.plugins, trust_remote_code=trusted)
    except TopworkError as error:
        raise unloadable(error.cause, work.model, error) from error
    verify_model(work.model, parts.model)
    verify_losses(work.task, work.model, parts.task, parts.model, rows)


def writable(folder: Path) -> None:
    """Check that a folder may be replaced: topwork wrote it, it is empty, or it does not exist.

    Raises:
        UsageError: there is something else.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UsageError(
            f"there is something else than a model folder (no {MANIFEST})", place=str(folder), hint="name another one"
        )


def _left_out(model: nn.Module, file: Path) -> dict[str, str]:
    """Return names of tied tensors that transformers did not write -> the name under which it wrote the tensor."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        written = set(stored.keys())
    state = model.state_dict()
    stored_names = {(state[name].data_ptr(), tuple(state[name].shape)): name for name in written}
    return {
        name: stored_names[tensor.data_ptr(), tuple(tensor.shape)]
        for name, tensor in state.items()
        if name not in written and (tensor.data_ptr(), tuple(tensor.shape)) in stored_names
    }


def is_plain(work: TaskParts) -> bool:
    """Return whether plain transformers can load the model by itself: a native class, nothing altered."""
    from transformers import PreTrainedModel

    return work.form == "native" and isinstance(work.model, PreTrainedModel) and not alterations(work.model)


def count_tensors(folder: Path) -> int:
    """Return the number of tensors in the safetensors files of a folder."""
    from safetensors import safe_open

    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            count += len(stored.keys())
    return count


def save_configs(work: TaskParts, folder: Path) -> None:
    """Save the config of each base, so that it can be made without weights; several have folders of their own."""
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


def save_processors(work: TaskParts, folder: Path) -> None:
    """Save what the task preprocesses with: tokenizers, image processors, feature extractors."""
    for kind, processor in work.task.state.processors.items():
        processor.save_pretrained(folder / Path(kind).parent)


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """Return a folder as it is; for the id of a Hub repository, its copy in the local cache, fetched if need be.

    Args:
        folder: a path or an id.
        revision: branch, tag or commit of the repository.

    Raises:
        CheckpointError: it is neither a folder nor a repository that can be had.
    """
    if Path(folder).expanduser().exists() or not _REPOSITORY.fullmatch(str(folder)):
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
    try:
        task_class.check_state(saved["state"])
    except CheckpointError as error:
        error.place = str(folder)
        raise
    check_whole(saved, folder)
    try:
        task = task_class(bases, chosen, State(saved["state"], processors))
        model, form = graft(task, plugins, weights=plainly)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        cause = f"what the task had learned does not fit it ({type(error).__name__}: {error})"
        raise CheckpointError(cause, place=str(folder), hint=saved_by(saved)) from error
    if form != saved["form"]:
        raise CheckpointError(
            f"the model was saved in the form `{saved['form']}` and is now built as `{form}`",
            place=str(folder),
            hint="install the plugin that built it",
        )
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
    from safetensors import SafetensorError

    try:
        there = count_tensors(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights: {error}", place=str(folder)) from error
    if there != saved["tensors"]:
        raise CheckpointError(f"there are {there} tensors, {saved['tensors']} were saved", place=str(folder))
    for name, known in saved.get("files", {}).items():
        if not (folder / name).is_file():
            raise CheckpointError("the weights are missing", place=str(folder / name))
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
