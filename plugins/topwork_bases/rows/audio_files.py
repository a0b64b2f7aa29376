"""Audio files as rows: `audio` as {bytes, path}, undecoded, with labels from folder names or a metadata file.

`datasets` has a reader of its own for such folders; it needs torchcodec even when nothing is decoded, so this one
builds plain rows. The layout is the same: `<split>/<label>/clip.wav`, `<label>/clip.wav`, or clips beside a
`metadata.csv` / `metadata.jsonl` whose `file_name` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topwork import DataError, Origin, Table, split_named
from topwork_bases.rows.records import read_records
from topwork_bases.rows.tables import read_table


def read_audio_files(paths: Sequence[Path], folder: Path | None) -> dict[str, Table]:
    """Return by split the rows: the column `audio` and either `label` (folder names) or the metadata's columns.

    Raises:
        DataError: an entry of a metadata file names no clip.
    """
    from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

    known = {suffix.lower() for suffix in AudioFolder.EXTENSIONS}
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(_split(path, folder) or "train", []).append(path)
    labelled = folder is not None or len({path.parent for path in paths}) > 1
    clips, labels, described = {}, {}, {}
    for split, files in by_split.items():
        tables = [path for path in files if path.name in ("metadata.csv", "metadata.jsonl")]
        if tables:
            described[split] = Table.concatenate([_described(table) for table in tables])
            continue
        clips[split] = [path for path in files if path.suffix.lower() in known]
        labels[split] = [_label(path, folder) if labelled else None for path in clips[split]]
    names = sorted({name for given in labels.values() for name in given if name is not None})
    made = {split: _table(files, labels[split], names) for split, files in clips.items() if files}
    return {split: (made | described)[split] for split in by_split if split in made or split in described}


def _split(path: Path, folder: Path | None) -> str | None:
    """Return the split that the first folder below the root names."""
    parts = path.relative_to(folder).parts[:-1] if folder else ()
    return split_named(parts[0]) if parts else None


def _label(path: Path, folder: Path | None) -> str | None:
    """Return the name of the folder that a clip lies in; None right below the root, or the folder of a split."""
    within = path.relative_to(folder).parts[:-1] if folder else path.parts[:-1]
    if folder and within and split_named(within[0]):
        within = within[1:]
    return within[-1] if within else None


def _described(file: Path) -> Table:
    """Return the rows of a metadata file, each with its clip; cells are text as written."""
    import datasets

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
    made = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
    return Table(made, table.origin, written=table.written, remarks=table.remarks)


def _table(files: Sequence[Path], labels: Sequence[str | None], names: list[str]) -> Table:
    import datasets
    import numpy as np

    columns: dict[str, Any] = {"audio": [{"bytes": None, "path": str(path.resolve())} for path in files]}
    if names:
        columns["label"] = [None if label is None else names.index(label) for label in labels]
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    if names:
        made = made.cast_column("label", datasets.ClassLabel(names=names))
    count = len(files)
    return Table(made, Origin(tuple(map(str, files)), np.arange(count), np.zeros(count, np.int64)))
