"""Layout of YOLO: `data.yaml` (or a list of classes), images, and a text file of boxes for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from topwork import DataError, Table, UsageError
from topwork_bases.formats.folders import IMAGES, boxes_table, file_cell, files_by_stem, image_size
from topwork_bases.formats.layout import Layout, Located
from topwork_bases.formats.texts import numbered_lines

_DESCRIPTIONS = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
#: files with a class a line, of exports that have no data.yaml
_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels", "train/_darknet.labels")
_SPLITS = (("train", "train"), ("val", "validation"), ("valid", "validation"), ("test", "test"))
_LINE_HINT = "write: class x y width height, as shares of the image"


@dataclass(frozen=True)
class _Classes:
    """Classes of a data set.

    Args:
        names: in the order of the model's outputs.
        index: of a class as label files write it -> index into `names`.
        keypoints: numbers behind each box that say where its key points are; None where there may be a polygon.
    """

    names: list[str]
    index: dict[int, int]
    keypoints: int | None = None


def find_yolo(path: Path) -> Path | None:
    """Return the file that names the classes of a data set of YOLO: the path itself, or one in the folder.

    That is data.yaml, or a list of classes (classes.txt, obj.names) where text files of boxes lie beside images.
    """
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") and path.name.startswith("data") else None
    described = next((file for name in _DESCRIPTIONS if (file := path / name).is_file()), None)
    if described is not None or not path.is_dir():
        return described
    listed = next((file for name in _LISTS if (file := path / name).is_file()), None)
    return listed if listed is not None and _has_labels(path) else None


def _has_labels(path: Path) -> bool:
    images = files_by_stem(path / "images" if (path / "images").is_dir() else path, IMAGES)
    return any(_label_file(image).is_file() for image in images.values())


def read_yolo(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read images and their text files of boxes: class, centre and size as shares of the image, or a polygon.

    Raises:
        UsageError: there is no data.yaml.
        DataError: a damaged file, with its line.
    """
    file = find_yolo(path)
    if file is None:
        raise UsageError(f"`{path}` has no data.yaml", hint="check the path")
    if file.suffix.lower() not in (".yaml", ".yml"):
        names = [text.strip() for _, text in numbered_lines(file) if text.strip()]
        classes = _Classes(names, {index: index for index in range(len(names))})
        folder = path / "images" if (path / "images").is_dir() else path
        images = sorted(files_by_stem(folder, IMAGES).values())
        return {"train": _read_split(images, folder, classes, "train")}
    content = _content(file)
    classes = _classes(file, content)
    root = file.parent / str(content.get("path") or ".")
    made: dict[str, Table] = {}
    for key, split in _SPLITS:
        written = content.get(key)
        if written and split not in made:
            sources = [_source(str(name), root, file) for name in (written if isinstance(written, list) else [written])]
            images = [image for source in sources for image in _images(source, root)]
            made[split] = _read_split(images, sources[0], classes, split)
    if not made:
        raise DataError(f"{file}: names no images", hint="write `train: images/train` and `val: images/val`")
    return made


def _content(file: Path) -> dict[str, Any]:
    """Return the file's content with every value as it is written: a class may be called yes, 1.0 or null."""
    import yaml

    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no valid YAML: {error}", hint="correct the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds no mapping", hint="write `names`, `train` and `val`")
    return content


def _classes(file: Path, content: Mapping[str, Any]) -> _Classes:
    names = content.get("names")
    if isinstance(names, dict):
        try:
            numbered = sorted((int(key), str(name)) for key, name in names.items())
        except ValueError:
            raise DataError(f"{file}: `names` has a key that is no number", hint="write {0: cat, 1: dog}") from None
    else:
        numbered = list(enumerate(map(str, names))) if isinstance(names, list) else []
    if not numbered:
        raise DataError(f"{file}: has no `names`", hint="list the classes: `names: [cat, dog]`")
    count = content.get("nc")
    if count is not None and str(count) != str(len(numbered)):
        raise DataError(f"{file}: `nc` is {count}, `names` has {len(numbered)}", hint="name every class")
    shape = content.get("kpt_shape")
    keypoints = int(shape[0]) * int(shape[1]) if isinstance(shape, list) and len(shape) == 2 else None
    return _Classes([name for _, name in numbered], {key: index for index, (key, _) in enumerate(numbered)}, keypoints)


def _source(written: str, root: Path, file: Path) -> Path:
    """Return the folder, or the list of images, of a split.

    Roboflow writes `../train/images` and means a folder beside the file; an absolute path of another machine means the
    folder of that name here.
    """
    written = written.replace("\\", "/")
    candidates = [root / written, file.parent / written, file.parent / written.removeprefix("../")]
    parts = PurePosixPath(written).parts
    candidates += [base / Path(*parts[start:]) for start in range(1, len(parts)) for base in (root, file.parent)]
    source = next((base for base in candidates if base.is_dir() or (base.is_file() and base.suffix == ".txt")), None)
    if source is None:
        raise DataError(f"{file}: there is no folder `{written}`", hint="correct the path")
    return source


def _images(source: Path, root: Path) -> list[Path]:
    """Return the images of a folder, or those that a list names, relative to itself or to the data set."""
    if source.is_dir():
        return sorted(files_by_stem(source, IMAGES).values())
    images = []
    for number, line in numbered_lines(source):
        if line.strip():
            named = [base / line.strip() for base in (source.parent, root)]
            image = next((path for path in named if path.is_file()), None)
            if image is None:
                raise DataError(f"{source}:{number}: there is no image `{line.strip()}`", hint="correct the line")
            images.append(image)
    return images


def _label_file(image: Path) -> Path:
    """Return the text file of an image: in labels/ in place of images/, else beside it."""
    parts = list(image.parts)
    if "images" in parts:  # the last such folder: others lie above the data set
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = Path(*parts).with_suffix(".txt")
    return labels if labels.is_file() else image.with_suffix(".txt")


def _read_split(images: Sequence[Path], source: Path, classes: _Classes, split: str) -> Table:
    examples: list[Located] = []
    count = bare = 0
    for image in images:
        labels = _label_file(image)
        bare += not labels.is_file()
        boxes, categories = _boxes(labels, image_size(image), classes) if labels.is_file() else ([], [])
        count += len(boxes)
        examples.append((None, {"image": file_cell(image), "objects": {"bbox": boxes, "category": categories}}))
    remark = (
        f"{source}: read as YOLO: {len(examples):,} images, {len(classes.names)} classes, {count:,} boxes ({split})"
    )
    remark += f"; {bare:,} images have no file of boxes, and so no object" if bare else ""
    return boxes_table(examples, list(images), remark, classes.names)


def _boxes(file: Path, size: tuple[int, int], classes: _Classes) -> tuple[list[list[float]], list[int]]:
    """Return boxes as [left, top, width, height] in pixels, and their classes; polygons become their boxes."""
    boxes, categories = [], []
    for number, line in numbered_lines(file):
        if not line.strip():
            continue
        try:
            category, *values = line.split()
            label, shares = int(category.removesuffix(".0")), [float(value) for value in values]
            if label not in classes.index or not _fits(len(shares), classes.keypoints):
                raise ValueError(f"class {label} of {len(classes.names)}, {len(shares)} numbers")
        except ValueError as error:
            raise DataError(f"{file}:{number}: no box of YOLO ({error})", hint=_LINE_HINT) from error
        if len(shares) > 4 and classes.keypoints is None:
            left, right = min(shares[::2]), max(shares[::2])
            top, bottom = min(shares[1::2]), max(shares[1::2])
        else:
            left, right = shares[0] - shares[2] / 2, shares[0] + shares[2] / 2
            top, bottom = shares[1] - shares[3] / 2, shares[1] + shares[3] / 2
        if min(shares[:4]) > 1:
            raise DataError(f"{file}:{number}: no box of YOLO (pixels, not shares of the image)", hint=_LINE_HINT)
        boxes.append([left * size[0], top * size[1], (right - left) * size[0], (bottom - top) * size[1]])
        categories.append(classes.index[label])
    return boxes, categories


def _fits(count: int, keypoints: int | None) -> bool:
    """Return whether a line has the numbers of a box, with its key points where they are declared, or of a polygon."""
    if keypoints is not None:
        return count in (4, 4 + keypoints)
    return count == 4 or (count >= 6 and count % 2 == 0)


LAYOUTS = (
    Layout(
        "yolo",
        lambda path: find_yolo(path) is not None,
        read_yolo,
    ),
)
