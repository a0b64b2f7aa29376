"""Predictions of many rows by many processes: `predict_shards`.

The folder has, at the end: predictions.jsonl, one line a row in the order of the rows; errors.jsonl, one line for each
row that was left out; files/, predictions that are files; result.json, counts and hashes. They are the same bytes
whoever computed which shard, and however often a process was killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.loop import Settings, predict_rows
from topwork.files import plain, write_json, write_whole
from topwork.items import Json
from topwork.process import Process
from topwork.saving.checksum import digest
from topwork.shards.parts import Parts
from topwork.shards.worker import RESULT, Worker, total

if TYPE_CHECKING:
    from topwork.saving.parts import TaskParts
    from topwork.shards.sources import Sources

PREDICTIONS, ERRORS, FILES = "predictions.jsonl", "errors.jsonl", "files"


def predict_shards(
    worker: Worker,
    work: TaskParts,
    sources: Sources,
    settings: Mapping[str, Any],
    describe: Callable[[Any, Any], Mapping[str, Json]],
    say: Callable[[str], None],
) -> None:
    """Take part in the predictions of a folder until all are there.

    Args:
        worker: of the folder.
        work: the task and its model.
        sources: the rows.
        settings: of the loop, as of `topwork.data.loop.Settings`.
        describe: (row, task) -> what a line says of the row beside its number.
        say: prints a line.
    """

    def compute(index: int, folder: Path) -> dict[str, Json]:
        return _predict(work, sources, worker.bounds(index), folder, settings, describe)

    worker.run(compute, partial(_join, worker.output), say)


def _predict(
    work: TaskParts,
    sources: Sources,
    indices: range,
    folder: Path,
    settings: Mapping[str, Any],
    describe: Callable[[Any, Any], Mapping[str, Json]],
) -> dict[str, Json]:
    """Write the predictions of some rows, and the rows that cannot be used, into a folder."""
    files, count = folder / FILES, 0
    errors: list[dict[str, Json]] = []
    with (folder / PREDICTIONS).open("w", encoding="utf-8") as out:
        for first, rows in sources.between(indices.start, indices.stop):
            chosen = Settings(**settings)
            for index, row, prediction in predict_rows(work.task, work.model, rows, chosen, Process.alone()):
                files.mkdir(exist_ok=True)
                written = plain(work.task.write(prediction, files, f"{first + index:08d}"))
                line = {"row": first + index, **describe(row, work.task), "prediction": written}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
            errors += [error_line(note, first) for note in chosen.skipped]
    if files.is_dir() and not any(files.iterdir()):
        files.rmdir()
    write_errors(folder, errors)
    return {"rows": count, "errors": len(errors)}


def error_line(note: Mapping[str, Json], first: int) -> dict[str, Json]:
    """Return the line of a row that was left out: its number among all rows, where it was written, and the cause."""
    index = note.get("index", note["row"])
    known = {key: note[key] for key in ("column", "file", "line") if note.get(key) is not None}
    return {"row": first + int(index), **known, "error": note["cause"]}


def write_errors(folder: Path, errors: list[dict[str, Json]]) -> None:
    """Write errors.jsonl, in the order of the rows, if there are any."""
    if errors:
        lines = [json.dumps(plain(error), ensure_ascii=False) + "\n" for error in sorted(errors, key=_row_of)]
        (folder / ERRORS).write_text("".join(lines), encoding="utf-8")


def _row_of(line: Mapping[str, Any]) -> int:
    return int(line["row"])


def _join(folder: Path, parts: Parts, count: int) -> None:
    """Write what all shards are together."""
    names = [PREDICTIONS] + ([ERRORS] if total(parts, count, "errors") else [])
    for name in names:
        join_lines(parts, count, folder / name)
    _link_files(parts, count, folder / FILES)
    counts = {key: total(parts, count, key) for key in ("rows", "errors")}
    write_json(folder / RESULT, {**counts, "shards": count, "sha256": {name: digest(folder / name) for name in names}})


def join_lines(parts: Parts, count: int, target: Path) -> None:
    """Write a file that has the lines of the shards' files of its name, shard after shard."""
    with write_whole(target) as temporary, temporary.open("wb") as out:
        for index in range(count):
            out.writelines(parts.verified(index, target.name))


def _link_files(parts: Parts, count: int, target: Path) -> None:
    """Put the files of all shards into one folder."""
    for index in range(count):
        for name in parts.record(index)["files"]:
            if name.startswith(f"{FILES}/"):
                parts.fetch(index, name, target / name.removeprefix(f"{FILES}/"))
