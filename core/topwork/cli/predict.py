"""`predict`: a saved model on rows from files, data sets or the command line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from topwork.cli.output import Session
from topwork.cli.rows import (
    BatchSize,
    Columns,
    ModelFolder,
    Precision,
    Split,
    Trusted,
    check_columns,
    check_settings,
    file_of,
    read_rows,
    split_pair,
    typed_rows,
)
from topwork.cli.shards import (
    STALE_AFTER,
    MaxErrors,
    ShardCount,
    Share,
    StaleAfter,
    check_shards,
    destination,
    predict_share,
)
from topwork.errors import UsageError
from topwork.files import exists
from topwork.system.output import stdout_to_stderr

if TYPE_CHECKING:
    from topwork.task import Task


def predict_command(
    context: typer.Context,
    model: ModelFolder,
    rows: Annotated[
        list[str] | None,
        typer.Argument(help="Rows: files (csv, jsonl ...), folders, data sets, sample:<name>; - reads stdin."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", help="One row: column=value, repeatable; a repeated column begins the next row."),
    ] = None,
    column: Columns = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Predict this many rows of each source.")] = None,
    on_error: Annotated[
        str, typer.Option(help="Rows that cannot be used: raise ends here; skip prints the cause in their line.")
    ] = "raise",
    batch_size: BatchSize = 32,
    precision: Precision = "float32",
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a prediction, for tasks that have this option.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Write JSON lines here, not to stdout; with --shards: a shared folder, or its address."),
    ] = None,
    shards: ShardCount = None,
    max_errors: MaxErrors = None,
    stale_after: StaleAfter = STALE_AFTER,
    files: Annotated[Path, typer.Option(help="Folder for predictions that are files.")] = Path("predictions"),
    trust: Trusted = False,
) -> None:
    """Predict with a saved model: one JSON line a row.

    Example: topwork predict runs/reviews-1/model -i text="I liked it"
    """
    session: Session = context.obj
    if not rows and not row:
        raise UsageError("nothing to predict", hint="give rows (a file, a data set), or -i column=value")
    check_settings(model, on_error, precision)
    target = destination(output, shards)
    shards = check_shards(shards, target, rows, max_errors, row)
    columns = dict(split_pair(text, "-c") for text in column or ())
    from topwork.api import load
    from topwork.runs.execute import silence_libraries
    from topwork.shards.stores import Store

    silence_libraries()
    settings = {"on_error": on_error, "items": batch_size, "precision": precision}
    with tempfile.TemporaryDirectory() as scratch, session.plugins.blaming(), stdout_to_stderr() as stdout:
        loaded = load(model, trust_remote_code=trust, plugins=session.plugins)
        if threshold is not None:
            loaded.task = _with_threshold(loaded.task, threshold)
        if isinstance(target, Path):
            _check_output(target, rows or [])
        sources: list[Any] = [typed_rows(row, type(loaded.task), columns)] if row else []
        sources += [read_rows(path, split, limit, session.plugins, Path(scratch)) for path in rows or ()]
        if target is not None and shards is not None:
            if max_errors is not None:
                settings["on_error"] = "skip"
            options = {"columns": columns, "split": split, "limit": limit, "threshold": threshold}
            share = Share(target, shards or None, max_errors, stale_after, session)
            predict_share(share, loaded, model, sources, rows or [], settings, options)
            return
        if not isinstance(target, Store):
            _write_lines(_lines(loaded, sources, columns, files, settings), target, stdout)


def _with_threshold(task: Task, threshold: float) -> Task:
    """Return the task with another option `threshold`.

    Raises:
        UsageError: the task has no such option, or the value is outside its range.
    """
    from topwork.saving.parts import with_options

    options = type(task.options)
    if "threshold" not in options.model_fields:
        known = ", ".join(name for name in options.model_fields if "threshold" in name)
        hint = f"it has {known}: set it in the recipe" if known else None
        raise UsageError(f"the task {task.name} has no option `threshold`", place="--threshold", hint=hint)
    try:
        return with_options(task, threshold=threshold)
    except UsageError as error:
        raise UsageError(error.cause, place="--threshold", hint=error.hint) from error


def _check_output(output: Path, inputs: Sequence[str]) -> None:
    """Refuse an output that is one of the inputs, which would be lost.

    Raises:
        UsageError: names it.
    """
    if not output.is_file():
        return
    for path in inputs:
        file = Path(path).expanduser()
        if exists(file) and file.samefile(output):
            raise UsageError(f"`{output}` is one of the inputs", place="--output", hint="name another file")


def _is_special(path: Path) -> bool:
    return exists(path) and not path.is_file() and not path.is_dir()


def _write_lines(lines: Iterator[str], output: Path | None, stdout: TextIO) -> None:
    if output is None:
        for line in lines:
            print(line, file=stdout, flush=True)
        return
    from topwork.files import write_whole

    if _is_special(output):  # a device or a pipe: what reads from it waits for lines
        with output.open("w", encoding="utf-8") as out:
            out.writelines(line + "\n" for line in lines)
        return
    with write_whole(output) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)


def _lines(
    loaded: Any, sources: Iterable[Any], columns: dict[str, str], files: Path, settings: dict[str, Any]
) -> Iterator[str]:
    """Yield a JSON line for each row, numbered through all sources: prediction or error, and the row's file."""
    from topwork.files import plain

    files_there = files.is_dir()
    count = 0
    for source in sources:
        present = list(source.column_names if hasattr(source, "column_names") else source[0])
        # A mapping is for the sources that have such columns; rows typed in name the task's columns themselves.
        fitting = {
            name: origin for name, origin in columns.items() if origin in present or not isinstance(source, list)
        }
        check_columns(type(loaded.task), present, fitting)
        skipped: list[dict[str, Any]] = []
        lines: Iterator[dict[str, Any]] = (
            {
                "row": index,
                **file_of(row, loaded.task),
                "prediction": plain(loaded.task.write(prediction, _made(files), f"{count + index:08d}")),
            }
            for index, row, prediction in loaded.predictions(source, columns=fitting, skipped=skipped, **settings)
        )
        done = 0
        for line in _with_skipped(lines, skipped):
            done = max(done, line["row"] + 1)
            yield json.dumps({**line, "row": count + line["row"]}, ensure_ascii=False)
        count += done
    if not files_there and files.is_dir() and not any(files.iterdir()):
        files.rmdir()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _with_skipped(lines: Iterator[dict[str, Any]], skipped: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Put lines with the cause where rows were left out; rows are skipped before a later one is predicted."""
    shown = 0

    def errors(before: float) -> Iterator[dict[str, Any]]:
        nonlocal shown
        while shown < len(skipped) and skipped[shown].get("index", skipped[shown]["row"]) < before:
            note = skipped[shown]
            more = {key: note[key] for key in ("column", "file", "line") if note.get(key) is not None}
            yield {"row": note.get("index", note["row"]), **more, "error": note["cause"]}
            shown += 1

    for line in lines:
        yield from errors(line["row"])
        yield line
    yield from errors(float("inf"))
