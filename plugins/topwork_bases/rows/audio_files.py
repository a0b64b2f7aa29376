"""Audio files as rows: `audio` as {bytes, path}, undecoded, with labels from folder names or a metadata file.

`datasets` has a reader of its own for such folders; it needs torchcodec even when nothing is decoded, so this one
builds plain rows. The layout is the same: `<split>/<label>/clip.wav`, `<label>/clip.wav`, or clips beside a
`metadata.csv` / `metadata.jsonl` whose `file_name` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topwork import Origin, Table, split_named
from topwork_bases.rows.described import TABLES, read_described, split_of


def read_audio_files(paths: Sequence[Path], folder: Path | None) -> dict[str, Table]:
    """Return by split the rows: the column `audio` and either `label` (folder names) or the metadata's columns.

    Raises:
        DataError: an entry of a metadata file names no clip.
    """
    import datasets
    from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

    known = {suffix.lower() for suffix in AudioFolder.EXTENSIONS}
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(split_of(path, folder) or "train", []).append(path)
    labelled = folder is not None or len({path.parent for path in paths}) > 1
    tables = [path for path in paths if path.name in TABLES]
    described = read_described(tables, folder, "audio", datasets.Audio(decode=False))
    clips, labels = {}, {}
    for split, files in by_split.items():
        if split in described:
            continue
        clips[split] = [path for path in files if path.suffix.lower() in known]
        labels[split] = [_label(path, folder) if labelled else None for path in clips[split]]
    names = sorted({name for given in labels.values() for name in given if name is not None})
    made = {split: _table(files, labels[split], names) for split, files in clips.items() if files}
    both = made | described
    return {split: both[split] for split in dict.fromkeys((*by_split, *described)) if split in both}


def _label(path: Path, folder: Path | None) -> str | None:
    """Return the name of the folder that a clip lies in; None right below the root, or the folder of a split."""
    within = path.relative_to(folder).parts[:-1] if folder else path.parts[:-1]
    if folder and within and split_named(within[0]):
        within = within[1:]
    return within[-1] if within else None


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
