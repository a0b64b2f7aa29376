"""Commands whose rows all processes that run them share: their options, and what they hand to `topwork.shards`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.output import Session, say
from topwork.cli.rows import check_columns, file_of
from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork.items import Json
    from topwork.runs.task_model import TaskModel
    from topwork.shards.sources import Sources
    from topwork.shards.stores import Store
    from topwork.shards.worker import Worker

#: seconds without a sign of life after which a shard is taken over; `topwork.shards.claims` says why it is long
STALE_AFTER = 120.0

ShardCount = Annotated[
    int | None,
    typer.Option(min=0, help="Divide the rows among all processes that run this command; 0: a suitable number."),
]
MaxErrors = Annotated[
    float | None,
    typer.Option(min=0, help="With --shards: leave out at most so many rows, or, below 1, such a share of them."),
]
StaleAfter = Annotated[
    float, typer.Option(min=1, help="With --shards: take over from processes that were silent for so many seconds.")
]


@dataclass(frozen=True)
class Share:
    """Terms on which a process takes part in shared work.

    Args:
        folder: shared by all processes.
        shards: how many there are; None for those of the folder, or a suitable number.
        max_errors: rows that may be left out: a number, or below 1 a share of all.
        stale_after: seconds without a sign of life after which a shard is taken over.
        session: of the command line.
    """

    folder: Path | Store
    shards: int | None
    max_errors: float | None
    stale_after: float
    session: Session

    def say(self, text: str) -> None:
        """Print a line on stderr, unless the command is to be quiet."""
        if not self.session.quiet:
            say(text)


def destination(output: str | None, shards: int | None) -> Path | Store | None:
    """Return the file or folder that `--output` names, by a path or the address of a store.

    Raises:
        UsageError: a store that shards cannot use, or an address without shards.
    """
    from topwork.shards.description import DESCRIPTION
    from topwork.shards.stores import Store, shared_folder

    folder = None if output is None else shared_folder(output)
    if isinstance(folder, Store):
        if shards is None and DESCRIPTION not in folder.names():
            hint = "give --shards as well, or a file"
            raise UsageError("only shards are written to a store", place="--output", hint=hint)
        if folder.address.startswith("memory:"):
            say("doubtful: memory:// ends with this process")
    return folder


def check_shards(
    shards: int | None,
    output: Path | Store | None,
    rows: Sequence[str] | None,
    max_errors: float | None,
    typed: Sequence[str] | None = None,
) -> int | None:
    """Return the number of shards that is wanted: None for no shards, 0 for a suitable number.

    Args:
        shards: as given.
        output: as given; a folder of shards is gone on with.
        rows: sources.
        max_errors: as given.
        typed: rows that were typed in.

    Raises:
        UsageError: options that do not fit together.
    """
    if shards is None and output is not None and (not isinstance(output, Path) or (output / "job.json").is_file()):
        shards = 0  # a store is given for shards only
    if shards is None:
        if max_errors is not None:
            raise UsageError("only shards have a budget of errors", place="--max-errors", hint="give --shards as well")
        if isinstance(output, Path) and output.is_dir():
            raise UsageError(f"`{output}` is a folder", place="--output", hint="name a file, or give --shards")
        return None
    if output is None:
        raise UsageError("shards need a folder", place="--shards", hint="give --output FOLDER")
    if isinstance(output, Path) and output.exists() and not output.is_dir():
        raise UsageError(f"`{output}` is a file", place="--output", hint="shards need a folder")
    if typed:
        raise UsageError("rows that are typed in are too few for shards", place="-i", hint="give a file")
    if rows and "-" in rows:
        raise UsageError("other processes cannot read this one's stdin", place="--shards", hint="give a file")
    return shards


def predict_share(
    share: Share,
    loaded: TaskModel,
    model: Path,
    sources: Sequence[Any],
    names: Sequence[str],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Take part in the predictions of a folder until all are there.

    Args:
        share: how.
        loaded: the model.
        model: its folder.
        sources: rows.
        names: of the sources.
        settings: of the loop.
        options: all other options that change predictions; `columns` among them.
    """
    from topwork.shards.predicting import ERRORS, PREDICTIONS, predict_shards
    from topwork.shards.worker import RESULT

    worker, rows = _join(share, "predict", loaded, model, sources, names, {**settings, **options}, targets=False)
    predict_shards(worker, loaded, rows, settings, file_of, share.say)
    left_out = json.loads((worker.output / RESULT).read_text(encoding="utf-8"))["errors"]
    errors = f", rows that were left out in {ERRORS}" if left_out else ""
    share.say(f"{worker.computed} of {worker.count} shards were predicted here")
    share.say(f"{share.folder}/{PREDICTIONS} is complete{errors}; counts and hashes in {RESULT}")


def measure_share(
    share: Share,
    loaded: TaskModel,
    model: Path,
    sources: Sequence[Any],
    names: Sequence[str],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Json]:
    """Take part in a measurement until all shards are measured, and return its result.

    Arguments are those of `predict_share`; `groups` is among the options.
    """
    from topwork.shards.measuring import measure_shards

    worker, rows = _join(share, "evaluate", loaded, model, sources, names, {**settings, **options}, targets=True)
    result = measure_shards(worker, loaded, rows, settings, options["groups"], share.say)
    share.say(f"{worker.computed} of {worker.count} shards were measured here")
    return result


def _join(
    share: Share,
    kind: str,
    loaded: TaskModel,
    model: Path,
    sources: Sequence[Any],
    names: Sequence[str],
    options: Mapping[str, Any],
    *,
    targets: bool,
) -> tuple[Worker, Sources]:
    """Return what this process works with: its worker, and the rows."""
    from topwork.process import Process
    from topwork.shards.description import Description, describe_model, describe_sources, software
    from topwork.shards.sources import Sources
    from topwork.shards.worker import Worker

    columns = options["columns"]
    for source in sources:
        if present := getattr(source, "column_names", None):
            check_columns(type(loaded.task), list(present), columns, targets=targets)
    rows = Sources(sources, type(loaded.task), columns, targets=targets)
    loaded.to(Process.alone().device)
    kept = {key: value for key, value in options.items() if value is not None and key not in ("skipped", "on_error")}
    description = Description(kind, describe_model(model), describe_sources(names), len(rows), kept, software())
    worker = Worker(
        share.folder,
        description,
        shards=share.shards,
        stale_after=share.stale_after,
        max_errors=share.max_errors,
    )
    return worker, rows
