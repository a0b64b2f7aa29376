"""Models of transformers without a task, saved and loaded as pruning left them: `save_pretrained`, `from_pretrained`.

transformers' own pair of these names knows nothing of removed attention heads and gates. A folder written here holds
the config, the weights in `topwork.safetensors` (which plain transformers does not take for an unpruned model) and the
manifest. A model with its task and preprocessing is saved by `TaskModel.save` and loaded by `topwork.load` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import CheckpointError, TopworkError, UsageError
from topwork.files import plain, write_whole
from topwork.saving.alterations import alterations
from topwork.saving.loading import check_contents, check_whole, count_tensors, put_back
from topwork.saving.manifest import FORMAT, MANIFEST, WEIGHTS, read_manifest, write_manifest, written_by
from topwork.saving.model_folder import writable
from topwork.saving.verification import silenced, unloadable, verify_model
from topwork.saving.weights import check_numbers, describe_contents, describe_file, load_weights, save_weights

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from topwork.plugins.registry import Plugins


def save_plain(model: nn.Module, folder: Path, plugins: Plugins) -> Path:
    """Write a folder, whole or not at all (one that was written by topwork is replaced), and prove that it loads.

    Raises:
        UsageError: this is no model of transformers' own classes, or the folder holds something else.
        CheckpointError: what was written does not give the same model when it is loaded.
    """
    saved: Any = model
    _own_class(type(model).__name__, type(model))
    writable(folder)
    plugins.hook.model_saving(model=model)
    with write_whole(folder) as temporary:
        temporary.mkdir()
        saved.config.save_pretrained(temporary)
        if getattr(saved, "generation_config", None) is not None:
            saved.generation_config.save_pretrained(temporary)
        manifest = {
            "format": FORMAT,
            "topwork": written_by(),
            "task": None,
            "class": type(model).__name__,
            "dtype": str(saved.dtype).removeprefix("torch."),
            "weights": WEIGHTS,
            "aliases": save_weights(model, temporary / WEIGHTS),
            "alterations": plain(alterations(model)),
            "tensors": count_tensors(temporary),
            "files": {WEIGHTS: describe_file(temporary / WEIGHTS)},
            "contents": describe_contents(temporary),
        }
        write_manifest(temporary, manifest)
        try:
            with silenced():
                again = load_plain(temporary, plugins)
        except TopworkError as error:
            raise unloadable(error.cause, model, error) from error
        verify_model(model, again)
    return folder


def load_plain(folder: Path, plugins: Plugins) -> PreTrainedModel:
    """Load the model that `save_plain` wrote, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the folder is none of these, is damaged, or its weights do not fit.
        PluginError: what was altered in the model belongs to a plugin that is not loaded.
    """
    content = read_manifest(folder)
    if content["task"] is not None:
        raise CheckpointError(
            f"this is a model of the task {content['task']}", place=str(folder), hint="topwork.load(folder).model"
        )
    check_contents(content, folder)
    check_whole(content, folder)
    made = _own_class(content["class"], None)
    config = made.config_class.from_pretrained(folder)
    model = made._from_config(config, dtype=_dtype(content["dtype"], folder))
    if content["alterations"]:
        put_back(model, content["alterations"], plugins, folder)
    load_weights(model, folder / content["weights"], content["aliases"])
    if (folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = type(model.generation_config).from_pretrained(folder)
    check_numbers(model, folder)
    return model.eval()


def _dtype(name: Any, folder: Path) -> Any:
    import torch

    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"the manifest is damaged (its dtype is {name!r})", place=str(folder / MANIFEST))
    return dtype


def _own_class(name: str, given: type | None) -> Any:
    """Return the class of transformers of this name; nothing else can be made again from a name."""
    import transformers

    known = getattr(transformers, name, None)
    is_model = isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)
    if not is_model or (given is not None and given is not known):
        raise UsageError(
            f"{name} is no model class of transformers",
            hint="build it with its task, topwork.build(...), which saves models of every kind",
        )
    return known
