"""`predict`: a saved model on rows from files, data sets or the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.output import Session
from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork.items import Row
    from topwork.plugins.registry import Plugins
    from topwork.task import Task


def predict(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote.")],
    rows: Annotated[list[str] | None, typer.Argument(help="Rows: files, data sets, sample:<name>.")] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", help="One row: column=value, repeatable; a repeated column begins the next row."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("-c", "--column", help="task's column=data set's column, repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set, slices allowed: test[:20].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Predict this many rows of each source.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSON lines here instead of to stdout.")] = None,
    files: Annotated[Path, typer.Option(help="Folder for predictions that are files.")] = Path("predictions"),
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that lies beside the weights.")
    ] = False,
) -> None:
    """Predict with a saved model: one JSON line a row.

    Example: topwork predict runs/reviews-1/model -i text="I liked it"
    """
    session: Session = context.obj
    if not rows and not row:
        raise UsageError("nothing to predict", hint="give rows (a file, a data set), or -i column=value")
    if not model.is_dir():
        raise UsageError(f"there is no model folder `{model}`")
    columns = dict(split_pair(text, "-c") for text in column or ())
    from topwork.api import load
    from topwork.runs.execute import silence_libraries

    silence_libraries()
    loaded = load(model, trust_remote_code=trust, plugins=session.plugins)
    sources: list[Any] = [_typed_rows(row, type(loaded.task))] if row else []
    sources += [_rows(path, split, limit, session.plugins) for path in rows or ()]
    _write_lines(_lines(loaded, sources, columns, files), output)


def _write_lines(lines: Iterator[str], output: Path | None) -> None:
    if output is None:
        for line in lines:
            print(line, flush=True)
        return
    from topwork.files import write_whole

    with write_whole(output) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)


def _lines(loaded: Any, sources: Iterable[Any], columns: dict[str, str], files: Path) -> Iterator[str]:
    """A JSON line for each row, numbered through all sources."""
    from topwork.files import plain

    files_there = files.is_dir()
    count = 0
    for source in sources:
        present = set(source.column_names if hasattr(source, "column_names") else source[0])
        # A mapping is for the sources that have such columns; rows typed in name the task's columns themselves.
        fitting = {name: there for name, there in columns.items() if there in present or not isinstance(source, list)}
        for _, _, prediction in loaded.predictions(source, columns=fitting):
            files.mkdir(parents=True, exist_ok=True)
            written = plain(loaded.task.write(prediction, files, f"{count:08d}"))
            yield json.dumps({"row": count, "prediction": written}, ensure_ascii=False)
            count += 1
    if not files_there and files.is_dir() and not any(files.iterdir()):
        files.rmdir()


def _rows(path: str, split: str | None, limit: int | None, plugins: Plugins) -> Any:
    from topwork.data.options import RowsOptions
    from topwork.recipe.data import missing_source

    message = missing_source(path, plugins)
    if message:
        raise UsageError(message, place="rows")
    options = RowsOptions.model_validate({"path": path, "split": split})
    rows = plugins.load_rows(options)
    if limit is None:
        return rows
    return rows.take(limit) if hasattr(rows, "take") else rows[:limit]


def _typed_rows(pairs: Iterable[str], task: type[Task]) -> list[Row]:
    """Make rows of `column=value`.

    The value of a lazy column (an image, audio) is a file; `[...]` and `{...}` are read as YAML, all else is text.
    """
    rows: list[dict[str, Any]] = [{}]
    for text in pairs:
        name, value = split_pair(text, "-i")
        if name in rows[-1]:
            rows.append({})
        known = task.columns.get(name)
        rows[-1][name] = _file(value) if known is not None and known.lazy else _plain(value)
    return list(rows)


def _file(value: str) -> dict[str, Any]:
    path = Path(value).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file `{value}`", place="-i")
    return {"path": str(path), "bytes": path.read_bytes()}  # as `datasets` hands out what it has not decoded


def _plain(value: str) -> Any:
    if not value.startswith(("[", "{")):
        return value
    from topwork.recipe.yaml import read

    node, problems = read(value, "-i", location=f"-i {value}")
    if problems:
        raise UsageError(str(problems[0]))
    return node.plain()


def split_pair(text: str, option: str) -> tuple[str, str]:
    """Split `column=value`; `option` is named in the error."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"`{text}` is not of the form column=value", place=option)
    return name, value
