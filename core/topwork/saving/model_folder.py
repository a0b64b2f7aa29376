"""A model folder: a Hub-style folder with topwork's manifest beside the weights.

Entry point: `save_folder`. `loading` reads them.

A native, unaltered model lies in `model.safetensors` and loads in plain transformers. Everything else (a generic task
head, a pruned or gated model) lies in `topwork.safetensors`, so that nothing else can load it wrong. No pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from topwork.errors import TopworkError, UsageError
from topwork.files import write_text, write_whole
from topwork.items import Json, Row
from topwork.saving.alterations import alterations
from topwork.saving.loading import count_tensors, load_folder
from topwork.saving.manifest import (
    MANIFEST,
    PLAIN_WEIGHTS,
    WEIGHTS,
    manifest,
    write_manifest,
)
from topwork.saving.model_card import CardFacts, model_card
from topwork.saving.parts import TaskParts
from topwork.saving.verification import silenced, unloadable, verify_losses, verify_model
from topwork.saving.weights import (
    check_tensors,
    describe_contents,
    describe_file,
    save_weights,
)

if TYPE_CHECKING:
    from torch import nn


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
    check_tensors(work.model.state_dict(keep_vars=True))
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
        write_manifest(temporary, {**manifest(work, plainly, aliases), **counted})
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
