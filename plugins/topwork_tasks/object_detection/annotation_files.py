"""Locations of annotation files of COCO and Pascal VOC in a folder, and of the images that they name."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from topwork import UsageError, split_named

_BEGINS = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')
_SUFFIXES = (".jpg", ".png", ".jpeg", ".bmp", ".tif", ".webp")
_IMAGES = ("images", "Images", "imgs", "JPEGImages")


def is_coco(path: Path) -> bool:
    """Return whether a JSON file begins as COCO's do, and has images, annotations and categories."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        if not _BEGINS.match(file.read(256).removeprefix(codecs.BOM_UTF8)):
            return False
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:  # a line for each row, say
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def coco_files(path: Path) -> dict[str, Path]:
    """Return the annotation file of each split: the path itself, or what a folder holds.

    Files lie in the folder, in its annotations/, or in folders of splits; their names or folders tell the split. Of
    several for one split that with "instances" in its name is taken.

    Raises:
        UsageError: several files for one split.
    """
    if not path.is_dir():
        return {"train": path} if is_coco(path) else {}
    folders = [path, path / "annotations", path / "Annotations"]
    folders += [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _split_in(folder.name)]
    by_split: dict[str, list[Path]] = {}
    for file in dict.fromkeys(file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.json"))):
        if is_coco(file):
            by_split.setdefault(_split_in(file.stem) or _split_in(file.parent.name) or "train", []).append(file)
    chosen: dict[str, Path] = {}
    for split, files in by_split.items():
        instances = [file for file in files if "instances" in file.stem]
        if len(files) > 1 and len(instances) != 1:
            names = ", ".join(str(file.relative_to(path)) for file in files)
            raise UsageError(f"`{path}` has several COCO files for {split}: {names}", hint="name one of them as `path`")
        chosen[split] = files[0] if len(files) == 1 else instances[0]
    return chosen


def _split_in(name: str) -> str | None:
    """Return the split that a word of a name tells: instances_val2017, valid."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((split for word in words if (split := split_named(word))), None)


def image_folder(file: Path, names: Sequence[str], given: str | None) -> Path:
    """Return the folder of the images that an annotation file names.

    Args:
        file: of annotations.
        names: of the images, as they are written.
        given: the folder that the recipe names; None looks beside the file, in images/, and in folders that are named
            after the file's split, here and one level up.
    """
    if given is not None:
        return Path(given).expanduser()
    split = _split_in(file.stem)
    for base in (file.parent, file.parent.parent):
        below = [folder for folder in sorted(base.iterdir()) if folder.is_dir()]
        named = [folder for folder in below if split is not None and _split_in(folder.name) == split]
        images = [base / name for name in _IMAGES]
        within = [folder for parent in images if parent.is_dir() for folder in sorted(parent.iterdir())]
        matching = [folder for folder in within if split is not None and _split_in(folder.name) == split]
        for folder in (base, *named, *(folder / name for folder in named for name in _IMAGES), *images, *matching):
            if names and named_image(folder, names[0]).is_file():
                return folder
    return file.parent


def named_image(folder: Path, name: str) -> Path:
    """Return the file that an annotation names in a folder.

    A path of another machine means the file of its last name; a name may lack its suffix or have another Unicode form.
    """
    name = name.strip().replace("\\", "/")
    last = name.rsplit("/", 1)[-1]
    names = dict.fromkeys((name, last, *(unicodedata.normalize(form, last) for form in ("NFC", "NFD"))))
    endings = ("", *_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES))
    candidates = (folder / (written + ending) for written in names for ending in endings)
    return next((file for file in candidates if file.is_file()), folder / name)


def annotation_folder(path: Path) -> Path | None:
    """Return the folder of Pascal VOC's XML files: Annotations/ in the path, or the path itself; None without one."""
    if not path.is_dir():
        return None
    candidates = [folder for name in ("Annotations", "annotations") if (folder := path / name).is_dir()]
    return next((folder for folder in (*candidates, path) if next(folder.glob("*.xml"), None) is not None), None)


def xml_images(annotations: Path, given: str | None) -> Path:
    """Return the folder of the images that XML files belong to: JPEGImages/ or images/ beside it, or the same."""
    if given is not None:
        return Path(given).expanduser()
    candidates = (base / name for base in (annotations.parent, annotations) for name in ("JPEGImages", *_IMAGES))
    return next((folder for folder in candidates if folder.is_dir()), annotations)
