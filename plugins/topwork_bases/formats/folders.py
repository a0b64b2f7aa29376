"""Files of folders: by their path without suffix, as cells of rows, and beside the file that names them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from topwork import DataError

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
#: maps of numbers beside images
MAPS = IMAGES | {".npy", ".exr"}
CLIPS = (".wav", ".flac", ".mp3", ".ogg", ".opus")


def file_cell(path: Path) -> dict[str, Any]:
    """Return the cell of a row that names a file."""
    return {"bytes": None, "path": str(path.resolve())}


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Return the files with these suffixes by their path below the folder, without the suffix."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    }


def named_file(folders: Iterable[Path], name: str, suffixes: Iterable[str] = ()) -> Path | None:
    """Return the file of this name, or with one of the suffixes behind it, in the first folder that has it."""
    endings = ("", *suffixes)
    candidates = (folder / (name + ending) for folder in folders for ending in endings)
    return next((path for path in candidates if path.is_file()), None)


def named_clip(folder: Path, name: str, file: Path, line: int) -> dict[str, Any]:
    """Return the cell of a clip that a line of a file names, with or without its suffix.

    Raises:
        DataError: there is no such clip.
    """
    path = named_file([folder], name, CLIPS)
    if path is None:
        raise DataError(
            f"{file}:{line}: names `{name}`, which is not in {folder}", hint="correct the line, or add the clip"
        )
    return file_cell(path)
