"""Layout of images with boxes in tables with a box in every line."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError, split_named
from topwork_bases.formats.folders import IMAGES, boxes_table, file_cell, image_size, named_file
from topwork_bases.formats.layout import Layout, Located
from topwork_bases.rows.tables import TABLE_OPTIONS, form_of, read_header, read_table

#: names of columns in tables of boxes, in lower case without signs
_FILE = ("filename", "file", "image", "imagepath", "imagename", "imagefile", "path", "filepath", "imageid", "img")
_CLASS = ("class", "label", "category", "classname", "labelname", "categoryname", "name", "object", "cls", "target")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("xtl", "ytl", "xbr", "ybr"),
    ("bboxxmin", "bboxymin", "bboxxmax", "bboxymax"),
)
_SIDES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
    ("bboxx", "bboxy", "bboxw", "bboxh"),
)
_CENTRES = tuple(
    (*centre, *size)
    for centre in (("xcenter", "ycenter"), ("centerx", "centery"), ("xcentre", "ycentre"), ("cx", "cy"), ("xc", "yc"))
    for size in (("width", "height"), ("w", "h"))
)
_IN_ONE = ("bbox", "box")
_SIZE = (("width", "height"), ("imagewidth", "imageheight"), ("imgwidth", "imgheight"))
_TABLES = (".csv", ".tsv")
_HINT = "give it columns such as filename, class, xmin, ymin, xmax, ymax"
_OPTIONS = ("images", *TABLE_OPTIONS)


@dataclass(frozen=True)
class _Columns:
    """Columns of a table of boxes, by their names in the header.

    Args:
        file: names the image.
        label: names the class.
        numbers: four columns of a box, or one that holds all four.
        notation: of the four: "corners", "sides" (left, top, width, height) or "centres".
        size: width and height of the image; empty without them.
    """

    file: str
    label: str
    numbers: tuple[str, ...]
    notation: str
    size: tuple[str, ...] = ()


def _columns_of(header: Sequence[str]) -> _Columns | None:
    """Return what the columns of a header hold; None where it is no table of boxes."""
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(header)}
    file = next((plain[name] for name in _FILE if name in plain), None)
    label = next((plain[name] for name in _CLASS if name in plain), None)
    if file is None or label is None:
        return None
    for notation, known in (("corners", _CORNERS), ("centres", _CENTRES), ("sides", _SIDES)):
        for names in known:
            if set(names) <= set(plain):
                size = next((pair for pair in _SIZE if set(pair) <= set(plain) - set(names)), ())
                numbers = tuple(plain[name] for name in names)
                return _Columns(file, label, numbers, notation, tuple(plain[name] for name in size))
    whole = next((plain[name] for name in _IN_ONE if name in plain), None)
    if whole is None:
        return None
    size = next((pair for pair in _SIZE if set(pair) <= set(plain)), ())
    return _Columns(file, label, (whole,), "sides", tuple(plain[name] for name in size))


def _tables_of(path: Path) -> list[Path]:
    """Return the tables of boxes that a path means: itself, or those in the folder, or in its folders of splits."""
    if path.is_file():
        candidates = [path] if path.suffix.lower() in _TABLES else []
    elif path.is_dir():
        splits = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and split_named(folder.name)]
        candidates = [file for folder in (path, *splits) for file in sorted(folder.iterdir())]
    else:
        candidates = []
    return [file for file in candidates if file.suffix.lower() in _TABLES and _header(file, {}) is not None]


def _header(file: Path, options: Mapping[str, Any]) -> _Columns | None:
    try:
        return _columns_of(read_header(file, form_of(_of_table(options), file.suffix.lower() == ".tsv")))
    except DataError:
        return None  # whatever reads the table says what is wrong with it


def _of_table(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "images"}


@dataclass
class _Image:
    """Objects of one image.

    Args:
        line: of its first box.
        boxes: four numbers each, as they are written.
        labels: name of each box's class.
        size: width and height that the table declares.
    """

    line: int
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None


def read_boxes(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read tables with a box in every line: an image's file, the class, and four numbers.

    Corners, left top width height, or centres, by the names of the columns; shares of the image where no number of the
    file is above 1. A line with an image alone says that the image has no object.

    Args:
        path: a table, or a folder with one for each split.
        options: those of a table, and `images`: the folder of the images, by default that of the table or images/

    Raises:
        UsageError: there is no table of boxes.
        DataError: a line without a class or with no four numbers, an image that does not exist.
    """
    files = [path] if path.is_file() else _tables_of(path)
    if not files:
        raise UsageError(f"`{path}` has no table of boxes", hint=_HINT)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, path), []).append(file)
    for split, tables in by_split.items():
        if len(tables) > 1:
            raise UsageError(
                f"`{path}` has several tables of boxes for {split}: {', '.join(file.name for file in tables)}",
                hint="name one of them as `path`",
            )
    return {split: _read_boxes(tables[0], options, split) for split, tables in by_split.items()}


def _split_of(file: Path, path: Path) -> str:
    """Return the split that a table's name or folder tells: train_labels.csv, test/_annotations.csv."""
    words = [] if file == path else [word for word in re.split(r"[^a-zA-Z]+", file.stem) if word]
    folder = [file.parent.name] if file.parent != path and file != path else []
    return next((split for word in (*folder, *words) if (split := split_named(word))), "train")


def _read_boxes(file: Path, options: Mapping[str, Any], split: str) -> Table:
    columns = _header(file, options)
    if columns is None:
        raise UsageError(f"`{file}` is no table of boxes", hint=_HINT)
    images: dict[str, _Image] = {}
    for line, row in _lines(file, options):
        name = row[columns.file]
        if not name:
            raise DataError(f"{file}:{line}: `{columns.file}` is empty", hint="name the image of every line")
        image = images.setdefault(name, _Image(line))
        if columns.size and all(row[column] for column in columns.size):
            image.size = _size(file, line, [row[column] for column in columns.size])
        numbers = [row[column] for column in columns.numbers]
        if not any(numbers):
            continue  # an image without an object
        label = row[columns.label]
        if not label:
            raise DataError(f"{file}:{line}: `{columns.label}` is empty", hint="name the class of every box")
        image.boxes.append(_numbers(file, line, columns, numbers))
        image.labels.append(label)
    shares = all(0 <= number <= 1 for image in images.values() for box in image.boxes for number in box)
    return _images_with_boxes(file, images, columns, options, split, shares)


def _lines(file: Path, options: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    table = read_table(file, _of_table(options), file.suffix.lower() == ".tsv")
    for index, row in enumerate(table):
        yield table.origin.line_of(index) or index + 1, row


def _numbers(file: Path, line: int, columns: _Columns, written: Sequence[str | None]) -> list[float]:
    """Return the four numbers of a box as they are written."""
    values: Any = written
    if len(written) == 1:
        try:
            values = ast.literal_eval(str(written[0]))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = str(written[0]).split()
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"{file}:{line}: {', '.join(columns.numbers)}: {', '.join(map(str, written))} are not four numbers",
            hint="correct the line, or leave all of them empty for an image without an object",
        )
    return numbers


def _size(file: Path, line: int, written: Sequence[str]) -> tuple[int, int]:
    try:
        width, height = (int(float(value)) for value in written)
    except (ValueError, OverflowError):
        raise DataError(
            f"{file}:{line}: {' x '.join(written)} is no size of an image", hint="write width and height in pixels"
        ) from None
    return width, height


def _images_with_boxes(
    file: Path, images: Mapping[str, _Image], columns: _Columns, options: Mapping[str, Any], split: str, shares: bool
) -> Table:
    given = options.get("images")
    folders = [Path(str(given)).expanduser()] if given else [file.parent, file.parent / "images"]
    if not given:
        folders += [file.parent / split, file.parent.parent, file.parent.parent / "images"]
    names = sorted({label for image in images.values() for label in image.labels})
    examples: list[Located] = []
    for name, image in images.items():
        image_file = named_file(folders, name, sorted(IMAGES))
        if image_file is None:
            raise DataError(
                f"{file}:{image.line}: there is no image `{name}` in {folders[0]}",
                hint="name the folder of the images: `options: {images: ...}`",
            )
        scale = (1.0, 1.0)
        if shares:
            width, height = image_size(image_file)
            scale = (float(width), float(height))
        boxes = [_sides(box, columns.notation, scale) for box in image.boxes]
        objects = {"bbox": boxes, "category": [names.index(label) for label in image.labels]}
        row: dict[str, Any] = {"image": file_cell(image_file), "objects": objects}
        if columns.size:
            row["annotated_size"] = list(image.size) if image.size else None
        examples.append((image.line, row))
    count = sum(len(image.boxes) for image in images.values())
    how = ", ".join(columns.numbers) + (" as shares of the image" if shares else "")
    remark = (
        f"{file}: read as a table of boxes ({how}): {len(images):,} images, {len(names)} classes, {count:,} boxes"
        f" ({split})"
    )
    return boxes_table(examples, file, remark, names)


def _sides(box: Sequence[float], notation: str, scale: tuple[float, float]) -> list[float]:
    """Return left, top, width and height in pixels."""
    a, b, c, d = box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1]
    if notation == "corners":
        return [a, b, c - a, d - b]
    return [a - c / 2, b - d / 2, c, d] if notation == "centres" else [a, b, c, d]


LAYOUTS = (
    Layout(
        "boxes",
        lambda path: bool(_tables_of(path)),
        read_boxes,
        _OPTIONS,
    ),
)
