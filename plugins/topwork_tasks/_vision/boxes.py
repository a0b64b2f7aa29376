"""Boxes: the four ways in which data sets write them, what is wrong with them, and boxes on pictures.

Inside topwork a box is [xmin, ymin, xmax, ymax] in pixels of the original picture; a detector's target is [centre x,
centre y, width, height] in shares of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, Row

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL.Image import Image

BoxFormat = Literal["coco", "voc", "yolo", "albumentations"]
BOX_FORMAT_HELP = (
    "coco: x, y, width, height in pixels; voc: xmin, ymin, xmax, ymax in pixels; yolo: centre x, centre y, width, "
    "height in shares of the picture; albumentations: xmin, ymin, xmax, ymax in shares"
)
_BOXES = ("bbox", "bboxes", "boxes", "box")
_CROWD = ("iscrowd", "crowd")
_CATEGORIES = ("category", "categories", "label", "labels", "category_id")


@dataclass(frozen=True)
class Objects:
    """The objects of a row.

    Args:
        boxes: [n, 4] float64, corners in pixels, inside the picture.
        categories: n values as the data has them.
        crowd: [n] bool: a box around many objects that are not told apart.
        areas: [n] float64, pixels that the objects cover; of the boxes where the data do not say.
    """

    boxes: numpy.ndarray
    categories: list[Any]
    crowd: numpy.ndarray
    areas: numpy.ndarray


def columns_of(value: Any, row: int | None, column: str = "objects") -> dict[str, list[Any]]:
    """The entries of `objects` (or another column) by key, from a dict of lists or a list of dicts.

    Raises:
        DataError: None, something else, lists of different lengths.
    """
    if value is None:
        raise DataError("is empty", row=row, column=column, hint="give a picture without objects empty lists")
    hint = "write a dict of lists of one length, or a list of dicts"
    if isinstance(value, Mapping):
        given = {str(key): entries for key, entries in value.items() if entries is not None}
        for key, entries in given.items():
            if isinstance(entries, str) or not isinstance(entries, Iterable):
                raise DataError(f"its `{key}` is {entries!r}, no list", row=row, column=column, hint=hint)
        return {key: list(entries) for key, entries in given.items()}
    if not isinstance(value, Sequence) or not all(isinstance(entry, Mapping) for entry in value):
        raise DataError(f"{value!r} is no list of objects", row=row, column=column, hint=hint)
    keys = {str(key) for entry in value for key in entry}
    return {key: [entry.get(key) for entry in value] for key in keys}


def categories_of(value: Any, row: int | None) -> list[Any]:
    """The categories of a row's objects."""
    return _named(columns_of(value, row), _CATEGORIES, row)


def beside(
    columns: Mapping[str, list[Any]], names: Sequence[str], count: int, row: int | None, column: str = "objects"
) -> list[Any]:
    """What stands beside each of `count` objects under one of these names; None for each where nothing does.

    Raises:
        DataError: for another number of objects.
    """
    found = next((columns[name] for name in names if columns.get(name)), [None] * count)
    if len(found) != count:
        cause = f"{count} objects and {len(found)} entries of `{names[0]}`"
        raise DataError(cause, row=row, column=column, hint=f"give each object its `{names[0]}`, or leave it out")
    return found


def _area(value: Any, box: Sequence[float], row: int | None) -> float:
    """What the data say that an object covers, else its box."""
    if value is None:
        return (box[2] - box[0]) * (box[3] - box[1])
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        hint = "correct it, or leave `area` out"
        raise DataError(f"an area of {value!r} is no number", row=row, column="objects", hint=hint) from error


def _named(columns: Mapping[str, list[Any]], names: Sequence[str], row: int | None) -> list[Any]:
    found = [name for name in names if name in columns]
    if not found and any(columns.values()):
        raise DataError(
            f"has no `{names[0]}`, only {', '.join(sorted(columns))}",
            row=row,
            column="objects",
            hint=f"name it `{names[0]}`",
        )
    return columns[found[0]] if found else []


def objects_of(row: Row, number: int | None, size: tuple[int, int], form: BoxFormat, drop: bool = False) -> Objects:
    """Read a row's objects.

    Args:
        number: of the row, for messages.
        size: width and height of the picture in pixels.
        form: how the boxes are written.
        drop: leave out boxes that cannot be used, instead of refusing the row.

    Raises:
        DataError: boxes and categories of different number, a box that is not four finite numbers, that has no area,
            or that lies outside its picture. A box that sticks out of its picture is cut at the edge.
    """
    import numpy

    columns = columns_of(row.get("objects"), number)
    written, categories = _named(columns, _BOXES, number), _named(columns, _CATEGORIES, number)
    if len(written) != len(categories):
        raise DataError(
            f"{len(written)} boxes and {len(categories)} categories",
            row=number,
            column="objects",
            hint="give one category a box",
        )
    crowd, given = beside(columns, _CROWD, len(written), number), beside(columns, ("area",), len(written), number)
    kept, boxes, areas = [], [], []
    for place, values in enumerate(written):
        try:
            box = _corners(values, form, size, place, number)
        except DataError:
            if drop:
                continue
            raise
        kept.append(place)
        boxes.append(box)
        areas.append(_area(given[place], box, number))
    return Objects(
        numpy.array(boxes, dtype=numpy.float64).reshape(-1, 4),
        [categories[place] for place in kept],
        numpy.array([bool(crowd[place]) for place in kept], dtype=bool),
        numpy.array(areas, dtype=numpy.float64),
    )


def _corners(values: Any, form: BoxFormat, size: tuple[int, int], place: int, number: int | None) -> list[float]:
    import math

    def refuse(cause: str) -> DataError:
        return DataError(
            f"box {place} {list(values) if isinstance(values, Sequence) else values!r} {cause}",
            row=number,
            column="objects",
            hint="correct it, check `box_format`, or set `bad_boxes: drop`",
        )

    try:
        a, b, c, d = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise refuse("is not four numbers") from error
    if not all(math.isfinite(value) for value in (a, b, c, d)):
        raise refuse("is not finite")
    if form in ("yolo", "albumentations"):
        a, b, c, d = a * size[0], b * size[1], c * size[0], d * size[1]
    if form == "yolo":
        a, b = a - c / 2, b - d / 2
    if form in ("coco", "yolo"):
        c, d = a + c, b + d
    if c <= a or d <= b:
        raise refuse("has no area")
    box = [max(a, 0.0), max(b, 0.0), min(c, float(size[0])), min(d, float(size[1]))]
    if box[2] - box[0] < 1e-6 or box[3] - box[1] < 1e-6:
        raise refuse(f"lies outside its picture of {size[0]} x {size[1]}")
    return box


def to_target(boxes: numpy.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Corners in pixels -> [n, 4] float32: centre x, centre y, width, height in shares of width and height `size`."""
    import torch

    corners = torch.from_numpy(boxes) / torch.tensor([*size, *size], dtype=torch.float64)
    low, high = corners[:, :2], corners[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1).float()


def to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """Centre x, centre y, width, height -> corners, in the last dimension."""
    import torch

    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], dim=-1)


def overlaps(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """[n, 4] and [m, 4] corners -> [n, m] intersection over union."""
    import numpy

    low = numpy.maximum(first[:, None, :2], second[None, :, :2])
    high = numpy.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = numpy.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / numpy.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def augmented(transform: Any, image: Image, objects: Objects) -> tuple[Image, Objects]:
    """A picture and its objects after one random draw of a v2 transform; boxes that fell out are gone."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(objects.boxes).float(), format="XYXY", canvas_size=(image.height, image.width)
    )
    places = torch.arange(len(objects.categories))
    clean = v2.SanitizeBoundingBoxes(min_size=1, labels_getter=lambda sample: sample[1]["labels"])
    image, target = clean(*transform(image, {"boxes": boxes, "labels": places}))
    kept = target["labels"].tolist()
    corners = target["boxes"].double().numpy()
    areas = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return image, Objects(corners, [objects.categories[place] for place in kept], objects.crowd[kept], areas)


def draw_boxes(image: Image, boxes: Sequence[tuple[Sequence[float], str, str]], factor: float = 1.0) -> Image:
    """The picture with boxes (corners, caption, colour) laid over it; corners are multiplied by `factor`."""
    from PIL import ImageDraw

    image = image.convert("RGB")
    pen = ImageDraw.Draw(image)
    for corners, caption, colour in boxes:
        left, top, right, bottom = (value * factor for value in corners)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=max(1, max(image.size) // 200))
        pen.text((left + 2, max(0, top - 11)), caption, fill=colour)
    return image
