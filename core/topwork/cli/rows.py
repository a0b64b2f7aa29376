"""Rows that a command line names (files, folders, data sets, stdin, `column=value`), and options about them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.errors import UsageError, listed, nearest, unknown

if TYPE_CHECKING:
    from topwork.items import Row
    from topwork.plugins.registry import Plugins
    from topwork.task import Task

PRECISIONS = ("float32", "bf16", "fp16")

ModelFolder = Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote.")]
Columns = Annotated[
    list[str] | None, typer.Option("-c", "--column", help="task's column=data set's column, repeatable.")
]
Split = Annotated[str | None, typer.Option(help="Split of a data set, slices allowed: test[:20].")]
BatchSize = Annotated[int, typer.Option(min=1, help="Most items in a batch.")]
Precision = Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}.")]
Trusted = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that lies beside the weights.")]


def check_settings(model: Path, on_error: str, precision: str) -> None:
    """Check the options that `predict` and `evaluate` share.

    Raises:
        UsageError: there is no such model folder, or a value is none of those that are known.
    """
    require_model_folder(model)
    for value, known, name in ((on_error, ("raise", "skip"), "--on-error"), (precision, PRECISIONS, "--precision")):
        if value not in known:
            raise unknown(f"value of `{name}`", value, known)


def require_model_folder(folder: Path) -> None:
    """Refuse the name of a folder that is not there.

    Raises:
        UsageError: bad usage, unlike a folder that is no model's.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no model folder `{folder}`")


def file_of(row: Row, task: Task) -> dict[str, str]:
    """Return the path of a row's file (an image, audio) under the key `file`, where it is known."""
    for name, column in task.columns.items():
        value = row.get(name) if column.lazy else None
        path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str | Path) else None
        if path:
            return {"file": str(path)}
    return {}


def check_columns(task: type[Task], present: list[str], columns: Mapping[str, str], *, targets: bool = False) -> None:
    """Refuse rows that lack an input column (or, on request, a target), in the words of the command line.

    Raises:
        UsageError: names the column, and how to give it.
    """
    for name, column in task.columns.items():
        origin = columns.get(name, name)
        if column.required and (targets or not column.target) and origin not in present:
            nearby = present[0] if len(present) == 1 else "..."
            raise UsageError(
                f"no column `{origin}` for the task's `{name}` ({column.description}){nearest(origin, present)}",
                place="rows",
                hint=f"there are {listed(present, 24)}; say -c {name}={nearby}, or -i {name}=...",
            )


def read_rows(path: str, split: str | None, limit: int | None, plugins: Plugins, scratch: Path) -> Any:
    """Return the rows of a source that the command line names; `-` is stdin, kept in `scratch`.

    Raises:
        UsageError: there is no such file, folder or data set.
    """
    from topwork.data.options import RowsOptions
    from topwork.recipe.data import missing_source

    if path == "-":
        path = _from_stdin(scratch)
    message = missing_source(path, plugins)
    if message:
        raise UsageError(message, place="rows")
    options = RowsOptions.model_validate({"path": path, "split": split})
    rows = plugins.load_rows(options)
    if limit is None:
        return rows
    return rows.take(limit) if hasattr(rows, "take") else rows[:limit]


def _from_stdin(scratch: Path) -> str:
    """Store the rows on stdin in a file: JSON lines if the first character is a brace, else csv."""
    text = sys.stdin.read()
    if not text.strip():
        raise UsageError("stdin is empty", place="-", hint="give JSON lines or csv with a header")
    target = scratch / ("stdin.jsonl" if text.lstrip()[0] == "{" else "stdin.csv")
    target.write_text(text, encoding="utf-8")
    return str(target)


def typed_rows(pairs: Iterable[str], task: type[Task], columns: dict[str, str]) -> list[Row]:
    """Make rows of `column=value`.

    The value of a lazy column (an image, audio) is a file; `[...]` and `{...}` are read as YAML, all else is text.
    """
    rows: list[dict[str, Any]] = [{}]
    for text in pairs:
        name, value = split_pair(text, "-i")
        if name in rows[-1]:
            rows.append({})
        names = {origin: column for column, origin in columns.items()}
        known = task.columns.get(names.get(name, name))
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
