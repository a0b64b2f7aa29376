"""Model folders that hold an exported program (ONNX, torch.export) in the place of weights.

Entry point: `save_program` writes one around files that a plugin makes; `load_folder` lets the plugin make a model of
them again (hook `load_program`). Task, options, state, processors and configs are those of any other model folder, and
so is the manifest but for its section `program`, which belongs to the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from topwork.files import write_text, write_whole
from topwork.items import Json
from topwork.saving.loading import load_folder
from topwork.saving.manifest import PROGRAM, manifest, write_manifest
from topwork.saving.model_card import CardFacts, model_card
from topwork.saving.model_folder import save_configs, save_processors, writable
from topwork.saving.parts import TaskParts
from topwork.saving.verification import silenced
from topwork.saving.weights import describe_contents


def save_program(
    work: TaskParts,
    folder: str | Path,
    write: Callable[[Path], Mapping[str, Json]],
    check: Callable[[TaskParts], None],
    card: CardFacts | Mapping[str, Json] | None = None,
) -> Path:
    """Write a model folder around an exported program, whole or not at all, and prove that it loads.

    Args:
        work: the task, and the model that was exported.
        folder: where to; a model folder that lies there is replaced.
        write: writes the files of the program into a folder, and returns the section `program` of the manifest; its
            key `format` is needed.
        check: called with what was loaded from the written folder; raises an error when it is not equal to `work`.
        card: facts for the model card, or metric name -> value.

    Returns:
        the folder.

    Raises:
        UsageError: the folder holds something else than a model folder.
        CheckpointError: the folder does not load.
    """
    target = Path(folder)
    writable(target)
    work.plugins.hook.model_saving(model=work.model)
    with write_whole(target) as temporary:
        temporary.mkdir()
        save_configs(work, temporary)
        save_processors(work, temporary)
        if (generation := getattr(work.model, "generation_config", None)) is not None:
            generation.save_pretrained(temporary)
        section = dict(write(temporary))
        described = {
            **manifest(work, False, {}),
            "weights": PROGRAM,
            "program": section,
            "tensors": 0,
            "contents": describe_contents(temporary),
        }
        write_manifest(temporary, described)
        write_text(temporary / "README.md", model_card(work, False, card, program=str(section["format"])))
        with silenced():
            # this process has just written what it runs
            check(load_folder(temporary, work.plugins, trust_remote_code=True))
    return target
