"""Audio files as rows: `audio` as {bytes, path}, undecoded, with labels from folder names or a metadata file.

`datasets` has a reader of its own for such folders; it needs torchcodec even when nothing is decoded, so this one
builds plain rows. The layout is the same: `<split>/<label>/clip.wav`, `<label>/clip.wav`, or clips beside a
`metadata.csv` / `metadata.jsonl` whose `file_name` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topwork import DataError
from topwork_bases.rows.records import read_records
from topwork_bases.rows.tables import read_table

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def read(paths: Sequence[Path], folder: Path | None) -> dict[str, Any]:
    """Split name -> data set with the column `audio` and either `label` (folder names) or the metadata's columns."""
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(_split(path, folder), []).append(path)
    root = folder or Path(".")
    rows = {split: _rows(files, root / split if (root / split).is_dir() else root) for split, files in by_split.items()}
    labels = sorted({row["label"] for split in rows.values() for row in split if isinstance(row.get("label"), str)})
    from_folders = any(row.pop("_folder", False) for split in rows.values() for row in split)
    return {split: _dataset(entries, labels if from_folders else None) for split, entries in rows.items() if entries}


def _split(path: Path, folder: Path | None) -> str:
    parts = path.relative_to(folder).parts[:-1] if folder else ()
    return _SPLITS.get(parts[0].lower(), "train") if parts else "train"


def _rows(files: Sequence[Path], root: Path) -> list[dict[str, Any]]:
    from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

    known = {suffix.lower() for suffix in AudioFolder.EXTENSIONS}
    clips = [path for path in files if path.suffix.lower() in known]
    tables = [path for path in files if path.name in ("metadata.csv", "metadata.jsonl")]
    if tables:
        return [row for table in tables for row in _described(table)]
    labelled = len({path.parent for path in clips}) > 1 or any(path.parent != root for path in clips)
    rows: list[dict[str, Any]] = []
    for path in clips:
        row: dict[str, Any] = {"audio": {"bytes": None, "path": str(path.resolve())}}
        if labelled:
            row |= {"label": path.parent.name, "_folder": True}
        rows.append(row)
    return rows


def _described(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a metadata file, each with its clip; cells are text as written."""
    table = read_table(file, {}) if file.suffix == ".csv" else read_records(file, {})
    rows = []
    for index, row in enumerate(table):
        name = row.pop("file_name", None)
        line = table.origin.line_of(index)
        if not name:
            raise DataError(f"{file}:{line}: entry {index + 1} has no `file_name`", hint="name the clip of every entry")
        clip = file.parent / name
        if not clip.is_file():
            raise DataError(
                f"{file}:{line}: entry {index + 1} names `{name}`, which does not exist", hint="correct the entry"
            )
        rows.append({"audio": {"bytes": None, "path": str(clip.resolve())}, **row})
    return rows


def _dataset(rows: list[dict[str, Any]], labels: list[str] | None) -> Any:
    import datasets

    made = datasets.Dataset.from_list(rows)
    if labels is not None:
        made = made.cast_column("label", datasets.ClassLabel(names=labels))
    return made.cast_column("audio", datasets.Audio(decode=False))
