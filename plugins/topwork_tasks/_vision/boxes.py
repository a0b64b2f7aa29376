"""Objects of a row: the four notations of boxes in data sets, their faults, targets of detectors, and drawing.

Inside topwork a box is [xmin, ymin, xmax, ymax] in pixels of the original image; a detector's target is [centre x,
centre y, width, height] in shares of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, Row, listed
from topwork_tasks._vision.frames import frame_orientation, frame_size
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import turn_boxes

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL.Image import Image

BoxFormat = Literal["coco", "voc", "yolo", "albumentations"]
BOX_FORMAT_HELP = (
    "coco: x, y, width, height in pixels; voc: xmin, ymin, xmax, ymax in pixels; yolo: centre x, centre y, width, "
    "height in shares of the image; albumentations: xmin, ymin, xmax, ymax in shares"
)
#: pixels by which a box may leave its image by rounding
_ROUNDING = 0.01
_BOXES = ("bbox", "bboxes", "boxes", "box")
_CROWD = ("iscrowd", "crowd")
_CATEGORIES = ("category", "categories", "label", "labels", "category_id")


@dataclass(frozen=True)
class Objects:
    """The objects of a row.

    Args:
        boxes: [n, 4] float64, corners in pixels, inside the image.
        categories: n values as the data has them.
        crowd: [n] bool: a box around many objects that are not told apart.
        areas: [n] float64, pixels that the objects cover; of the boxes where the data do not say.
    """

    boxes: numpy.ndarray
    categories: list[Any]
    crowd: numpy.ndarray
    areas: numpy.ndarray

    def resized(self, size: tuple[int, int], target: tuple[int, int]) -> Objects:
        """Return the objects on the image when it is resized from `size` to `target` (widths and heights)."""
        if size == target:
            return self
        across, down = target[0] / size[0], target[1] / size[1]
        return replace(self, boxes=self.boxes * [across, down, across, down], areas=self.areas * across * down)


# ---------------------------------------------------------------- columns of entries


def columns_of(value: Any, index: int | None, column: str = "objects") -> dict[str, list[Any]]:
    """Return the entries of `objects` (or another column) by key, from a dict of lists or a list of dicts.

    Raises:
        DataError: None, something else, lists of different lengths.
    """
    if value is None:
        raise DataError("is empty", row=index, column=column, hint="give an image without objects empty lists")
    hint = "write a dict of lists of one length, or a list of dicts"
    if isinstance(value, Mapping):
        columns = {str(key): entries for key, entries in value.items() if entries is not None}
        for key, entries in columns.items():
            if isinstance(entries, str) or not isinstance(entries, Iterable):
                raise DataError(f"its `{key}` is {entries!r}, no list", row=index, column=column, hint=hint)
        return {key: list(entries) for key, entries in columns.items()}
    if not isinstance(value, Sequence) or not all(isinstance(entry, Mapping) for entry in value):
        raise DataError(f"{value!r} is no list of objects", row=index, column=column, hint=hint)
    keys = {str(key) for entry in value for key in entry}
    return {key: [entry.get(key) for entry in value] for key in keys}


def categories_of(value: Any, index: int | None) -> list[Any]:
    """Return the categories of a row's objects."""
    return _first_column(columns_of(value, index), _CATEGORIES, index)


def optional_column(
    columns: Mapping[str, list[Any]], names: Sequence[str], count: int, index: int | None, column: str = "objects"
) -> list[Any]:
    """Return the values of each of `count` objects under one of these names; None for each where there are none.

    Raises:
        DataError: for another number of objects.
    """
    values = next((columns[name] for name in names if columns.get(name)), [None] * count)
    if len(values) != count:
        cause = f"{count} objects and {len(values)} entries of `{names[0]}`"
        raise DataError(cause, row=index, column=column, hint=f"give each object its `{names[0]}`, or leave it out")
    return values


def _first_column(columns: Mapping[str, list[Any]], names: Sequence[str], index: int | None) -> list[Any]:
    present = [name for name in names if name in columns]
    if not present and any(columns.values()):
        cause = f"has no `{names[0]}`, only {listed(sorted(columns))}"
        raise DataError(cause, row=index, column="objects", hint=f"name it `{names[0]}`")
    return columns[present[0]] if present else []


def declared_names(rows: Any, column: str = "objects") -> list[str] | None:
    """Return the names of the integers in a column of entries, where the data set declares them (`ClassLabel`)."""
    feature = (getattr(rows, "features", None) or {}).get(column)
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) and inner else inner
    if not isinstance(inner, Mapping):
        return None
    for feature in inner.values():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            return [str(name) for name in names]
    return None


# ---------------------------------------------------------------- reading


def objects_of(row: Row, index: int | None, size: tuple[int, int], form: BoxFormat, drop: bool = False) -> Objects:
    """Read a row's objects.

    Args:
        row: with the column `objects`.
        index: index of the row, for messages.
        size: width and height of the upright image in pixels.
        form: notation of the boxes.
        drop: leave out boxes that cannot be used, instead of refusing the row.

    Raises:
        DataError: boxes and categories of different number, a box that is not four finite numbers, without area, or
            outside its image. A box that leaves its image is clipped.
    """
    import numpy

    orientation = frame_orientation(row, index, size)
    frame = frame_size(orientation, size)
    columns = columns_of(row.get("objects"), index)
    written, categories = _first_column(columns, _BOXES, index), _first_column(columns, _CATEGORIES, index)
    if len(written) != len(categories):
        cause = f"{len(written)} boxes and {len(categories)} categories"
        raise DataError(cause, row=index, column="objects", hint="give one category a box")
    crowd = optional_column(columns, _CROWD, len(written), index)
    given_areas = optional_column(columns, ("area",), len(written), index)
    kept, boxes, areas = [], [], []
    for box_index, values in enumerate(written):
        try:
            box = _corners(values, form, frame, box_index, index)
        except DataError as error:
            if drop:
                continue
            fitting = _fitting_formats(written, frame, form)
            if not fitting:
                raise
            hint = f"as `box_format: {fitting[0]}` all boxes of the row would fit its image; or set `bad_boxes: drop`"
            raise DataError(error.cause, row=index, column="objects", hint=hint) from error
        kept.append(box_index)
        boxes.append(box)
        areas.append(_area(given_areas[box_index], box, index))
    return Objects(
        turn_boxes(numpy.array(boxes, dtype=numpy.float64).reshape(-1, 4), orientation, size),
        [categories[box_index] for box_index in kept],
        numpy.array([bool(crowd[box_index]) for box_index in kept], dtype=bool),
        numpy.array(areas, dtype=numpy.float64),
    )


def _fitting_formats(boxes: Sequence[Any], size: tuple[int, int], form: BoxFormat) -> list[BoxFormat]:
    """Return the other notations in which all boxes lie in an image of this width and height."""

    def fits(values: Any, notation: BoxFormat) -> bool:
        try:
            left, top, right, bottom = to_pixels(tuple(float(value) for value in values), notation, size)
        except (TypeError, ValueError):
            return False
        return -1 <= left < right <= size[0] + 1 and -1 <= top < bottom <= size[1] + 1

    notations: tuple[BoxFormat, ...] = ("coco", "voc", "yolo", "albumentations")
    return [n for n in notations if n != form and boxes and all(fits(values, n) for values in boxes)]


def box_doubts(rows: Iterable[Row], form: BoxFormat) -> list[str]:
    """Return doubts about the boxes of rows, one sentence each.

    They are about boxes that leave their image and are clipped, boxes that cannot be used, boxes of pixels that are no
    larger than a pixel, and rows without any box.
    """
    leaving, unusable, total, example, largest = 0, 0, 0, "", 0.0
    fitting: set[BoxFormat] = {"coco", "voc", "yolo", "albumentations"}
    for row in rows:
        size = size_of(row.get("image"))
        try:
            boxes = _first_column(columns_of(row.get("objects"), None), _BOXES, None) if size else []
            frame = frame_size(frame_orientation(row, None, size), size) if size else (0, 0)
        except DataError:
            continue  # reading the row for training refuses it, or skips and counts it
        total += len(boxes)
        fitting &= set(_fitting_formats(boxes, frame, form)) if boxes else fitting
        for values in boxes:
            try:
                _corners(values, form, frame, 0, None)
                left, top, right, bottom = to_pixels(tuple(float(value) for value in values), form, frame)
            except DataError:
                unusable += 1
                continue
            largest = max(largest, *(abs(float(value)) for value in values))
            if left < -_ROUNDING or top < -_ROUNDING or right > frame[0] + _ROUNDING or bottom > frame[1] + _ROUNDING:
                leaving += 1
                example = example or f"{list(values)} in {frame[0]} x {frame[1]}"
    hint = f"; as `box_format: {min(fitting)}` all boxes would fit" if fitting else ""
    doubts = []
    if leaving:
        doubts.append(f"{leaving} of {total} boxes reach out of their image and are clipped, such as {example}{hint}")
    if unusable:
        doubts.append(f"{unusable} of {total} boxes cannot be used as `box_format: {form}`{hint}")
    if form in ("coco", "voc") and 0 < largest <= 1:
        shares = " or ".join(f"`box_format: {name}`" for name in sorted(fitting & {"yolo", "albumentations"}))
        doubts.append(
            f"no number of the {total} boxes is larger than 1, so they are no pixels; try {shares or 'another'}"
        )
    return doubts if total else ["no row has a box"]


def _area(value: Any, box: Sequence[float], index: int | None) -> float:
    """Return the area that the data declare, else that of the box."""
    if value is None:
        return (box[2] - box[0]) * (box[3] - box[1])
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        hint = "correct it, or leave `area` out"
        raise DataError(f"an area of {value!r} is no number", row=index, column="objects", hint=hint) from error


def _corners(values: Any, form: BoxFormat, size: tuple[int, int], box_index: int, index: int | None) -> list[float]:
    def refusal(cause: str) -> DataError:
        return DataError(
            f"box {box_index} {list(values) if isinstance(values, Sequence) else values!r} {cause}",
            row=index,
            column="objects",
            hint="correct it, check `box_format`, or set `bad_boxes: drop`",
        )

    try:
        a, b, c, d = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise refusal("is not four numbers") from error
    if not all(math.isfinite(value) for value in (a, b, c, d)):
        raise refusal("is not finite")
    left, top, right, bottom = to_pixels((a, b, c, d), form, size)
    if right <= left or bottom <= top:
        raise refusal("has no area")
    box = [max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))]
    if box[2] - box[0] < 1e-6 or box[3] - box[1] < 1e-6:
        raise refusal(f"lies outside its image of {size[0]} x {size[1]}")
    return box


def to_pixels(values: tuple[float, ...], form: BoxFormat, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the corners in pixels of four numbers in a notation."""
    a, b, c, d = values
    if form in ("yolo", "albumentations"):
        a, b, c, d = a * size[0], b * size[1], c * size[0], d * size[1]
    if form == "yolo":
        a, b = a - c / 2, b - d / 2
    return (a, b, a + c, b + d) if form in ("coco", "yolo") else (a, b, c, d)


# ---------------------------------------------------------------- tensors and arrays


def to_target(boxes: numpy.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Return corners in pixels as [n, 4] float32: centre x, centre y, width, height in shares of `size`."""
    import torch

    corners = torch.from_numpy(boxes) / torch.tensor([*size, *size], dtype=torch.float64)
    low, high = corners[:, :2], corners[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1).float()


def to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """Return the corners of boxes given as centre x, centre y, width, height in the last dimension."""
    import torch

    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], dim=-1)


def overlaps(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """Return the intersection over union of [n, 4] and [m, 4] corners, [n, m]."""
    import numpy

    low = numpy.maximum(first[:, None, :2], second[None, :, :2])
    high = numpy.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = numpy.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / numpy.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def draw_boxes(image: Image, boxes: Sequence[tuple[Sequence[float], str, str]], factor: float = 1.0) -> Image:
    """Draw boxes (corners, caption, colour) on an image; corners are multiplied by `factor`."""
    from PIL import ImageDraw

    image = image.convert("RGB")
    pen = ImageDraw.Draw(image)
    for corners, caption, colour in boxes:
        left, top, right, bottom = (value * factor for value in corners)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=max(1, max(image.size) // 200))
        pen.text((left + 2, max(0, top - 11)), caption, fill=colour)
    return image
