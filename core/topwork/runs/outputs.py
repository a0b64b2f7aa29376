"""Outputs of finished stages: result.json lists the other files of its folder with sizes and hashes.

Whatever uses a finished stage again (resume, `run --from`, the report) compares them first: a file that was removed,
cut short or changed since then is named, and never read as if it were the stage's own. Entry points: `describe_outputs`
when a stage ends, `changed_outputs` and `first_damage` afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.errors import CheckpointError
from topwork.files import PARTIAL
from topwork.items import Json
from topwork.runs.records import OUTPUTS, RESULT, read_record, stage_folder
from topwork.saving.checksum import describe_files, difference
from topwork.saving.manifest import MANIFEST

if TYPE_CHECKING:
    from topwork.recipe.recipe import Recipe

#: a folder of this name in a stage's own is dropped as soon as the stage's result is on disk
CHECKPOINTS = "checkpoints"


def describe_outputs(folder: Path) -> dict[str, Json]:
    """Return size and hash of every file that a stage has left in its folder.

    Checkpoints go when the stage has ended, and model folders have a list of their own.
    """
    models = {file.parent for file in folder.rglob(MANIFEST)}

    def counts(file: Path) -> bool:
        parts = file.relative_to(folder).parts
        is_passing = parts[0] in (CHECKPOINTS, RESULT) or any(part.endswith(PARTIAL) for part in parts)
        return not is_passing and models.isdisjoint(file.parents)

    return describe_files(folder, counts)


def changed_outputs(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file of a finished stage that is not as the stage left it, with what happened to it.

    Args:
        folder: of the stage. A result.json without a list, as earlier versions wrote it, names no file.
    """
    file = folder / RESULT
    try:
        record = read_record(file)
    except CheckpointError as error:
        yield file, error.cause
        return
    for name, known in record.get(OUTPUTS, {}).items():
        change = difference(folder / name, known)
        if change is not None:
            yield folder / name, f"the file {change}"


def first_damage(recipe: Recipe, root: Path, count: int) -> tuple[int, str, Path] | None:
    """Return the first finished stage with a changed file.

    Args:
        recipe: of the run.
        root: the run folder.
        count: how many stages are finished.

    Returns:
        position of the stage, what happened, and the file; None when every file is as it was written.
    """
    for index, stage in enumerate(recipe.stages[:count]):
        for file, change in changed_outputs(stage_folder(root, stage, index)):
            return index, f"`{file.relative_to(root).as_posix()}` of stage {index + 1}, {stage.name}: {change}", file
    return None
