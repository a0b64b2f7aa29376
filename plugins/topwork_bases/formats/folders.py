"""Files of folders: by their path without suffix, as cells of rows, and beside the file that names them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import DataError
from topwork_bases.formats.layout import Located, table_of
from topwork_bases.rows.walking import files_below

if TYPE_CHECKING:
    from topwork import Table

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
#: maps of numbers beside images
MAPS = IMAGES | {".npy", ".exr"}
CLIPS = (".wav", ".flac", ".mp3", ".ogg", ".opus")


def file_cell(path: Path) -> dict[str, Any]:
    """Return the cell of a row that names a file."""
    return {"bytes": None, "path": str(path.resolve())}


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Return the files with these suffixes by their path below the folder, without the suffix, composed (NFC).

    Raises:
        DataError: two files that differ by their suffix alone.
    """
    files: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix.lower() in suffixes:
            key = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            if key in files:
                raise DataError(
                    f"{files[key]} and {path.name} differ by their suffix alone",
                    hint="keep one of them, or give them names of their own",
                )
            files[key] = path
    return files


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image from its header.

    Raises:
        DataError: the file is no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}", hint="mend the file, or remove it") from error


def boxes_table(examples: Sequence[Located], files: Sequence[Path] | Path, remark: str, names: Sequence[str]) -> Table:
    """Make a table of images and `objects` {bbox: [[left, top, width, height]], category: indices of `names`}."""
    import datasets

    table = table_of(examples, files, remark)
    features = table.rows.features.copy()
    features["objects"] = {
        "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
        "category": datasets.List(datasets.ClassLabel(names=list(names))),
    }
    table.rows = table.rows.cast(features)
    return table


def named_file(folders: Iterable[Path], name: str, suffixes: Iterable[str] = ()) -> Path | None:
    """Return the file of this name, or with one of the suffixes behind it, in the first folder that has it.

    Names are compared composed and decomposed: archives of some systems decompose the names of files.
    """
    endings = ("", *suffixes)
    forms = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    candidates = (folder / (form + ending) for folder in folders for form in forms for ending in endings)
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
