"""Checkpoints of a training: `seal` marks one as complete, `last_checkpoint` finds the newest, `verify` checks it.

`rotate` removes old ones.

The mark lists every file with its size and hash, and names the training. A checkpoint whose optimizer, scheduler or
random state is absent, cut short or of another training would give another model without a word.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.errors import CheckpointError
from topwork.files import flush_to_disk, remove_folder, write_json
from topwork.items import Json
from topwork.runs.records import RUN, read_record
from topwork.saving.checksum import describe_files, difference

if TYPE_CHECKING:
    from topwork.runs.run import Run

#: checkpoints that are kept
_KEPT = 2
#: the file that marks a checkpoint as complete; written last
MARK = "whole"
_HINT = "put the file back from a copy, or delete this checkpoint: the training then goes on from the one before"


def seal(folder: Path, run: Run, finished: bool) -> None:
    """Mark a checkpoint as complete.

    Args:
        folder: the checkpoint, with all its files.
        run: whose training it belongs to.
        finished: the training ended with it.
    """
    flush_to_disk(folder)  # a mark that outlives a cut of the power must not name files that do not
    files = describe_files(folder)
    write_json(folder / MARK, {"finished": finished, "training": _identity(run), "files": files})


def rotate(folder: Path, newest: Path, best: str | None) -> None:
    """Remove all checkpoints but the newest, the best, and, if these are one, the one before.

    Their steps say which is older: times of files lie when a clock is set back or a folder is copied.

    Args:
        folder: holds the checkpoints.
        newest: the one that was written last.
        best: the one with the best metric, if evaluations chose one.
    """
    kept = {newest.name} | ({Path(best).name} if best is not None else set())
    known = sorted((path for path in folder.glob("checkpoint-*") if path.is_dir()), key=_step)
    for path in reversed([path for path in known if (path / MARK).is_file()]):
        if len(kept) < _KEPT:
            kept.add(path.name)
    for path in known:
        if path.name not in kept:
            remove_folder(path)


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; None when there is none."""
    folders = [path.parent for path in folder.glob(f"checkpoint-*/{MARK}")]
    return max(folders, key=_step, default=None)


def verify(folder: Path, run: Run) -> bool:
    """Compare a checkpoint with its mark.

    Returns:
        whether the training ended with it.

    Raises:
        CheckpointError: names a file that is absent, cut short, changed, or of another training.
    """
    if not (folder / MARK).is_file():
        raise CheckpointError("the mark of the checkpoint is no regular file", place=str(folder / MARK), hint=_HINT)
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        finished, training = bool(mark["finished"]), mark["training"]
        files = {
            str(name): {"size": int(known["size"]), "sha256": str(known["sha256"])}
            for name, known in mark["files"].items()
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError("the mark of the checkpoint is damaged", place=str(folder / MARK), hint=_HINT) from error
    if training != _identity(run):
        raise CheckpointError("the checkpoint is of another training", place=str(folder), hint="delete it")
    for name, known in files.items():
        if (change := difference(folder / name, known)) is not None:
            raise CheckpointError(f"a file of the checkpoint {change}", place=str(folder / name), hint=_HINT)
    return finished


def _identity(run: Run) -> str:
    """Return a hash of the run and the stage; the folder may be moved meanwhile."""
    known: list[Json] = [run.folder.name, run.seed]
    if (run.root / RUN).is_file():
        known.append(read_record(run.root / RUN).get("started"))
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
