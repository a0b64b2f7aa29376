"""Segmentation rows: masks as numbers, and the ways in which instances and panoptic segments are written.

Inside topwork a semantic truth is a map of label numbers; segments are a map of ids, 0 for nothing, with a label for
each id from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks._vision import images as _image

if TYPE_CHECKING:
    import numpy

#: (value in the data, position of the row, column) -> the number of the label
Number = Callable[[Any, int | None, str], int]


@dataclass(frozen=True)
class Segments:
    """The segments of a picture.

    Args:
        ids: int32 [height, width], 0 for nothing.
        labels: the label number of each id, from id 1.
        crowd: whether an id stands for many things that are not told apart.
        masks: bool [height, width] of each id where segments overlap; None when the ids say all.
    """

    ids: numpy.ndarray
    labels: list[int]
    crowd: list[bool]
    masks: list[numpy.ndarray] | None = None

    def mask(self, place: int) -> numpy.ndarray:
        """The pixels of the segment at a place, from 0, as bool [height, width]."""
        return self.masks[place] if self.masks is not None else self.ids == place + 1


def open_map(value: Any, row: int | None, column: str, size: tuple[int, int] | None = None) -> numpy.ndarray:
    """Whole numbers of pixels, int32 [height, width] (or [height, width, 3] of a colour picture), from a PIL image (a
    palette's numbers, not its colours), {bytes, path}, a path, bytes, a .npy file, an array or nested lists.

    Args:
        size: width and height that the map must have.

    Raises:
        DataError: empty, not readable, no whole numbers, or of another size.
    """
    import numpy

    if value is None:
        raise DataError("is empty", row=row, column=column, hint="give a mask, or leave the row out")
    try:
        array = _array(value)
        if array.dtype.kind == "f" and not (numpy.isfinite(array).all() and (array == numpy.rint(array)).all()):
            raise ValueError("its numbers are not whole")
        if array.dtype.kind not in "biuf" or array.ndim not in (2, 3):
            raise ValueError(f"an array of {array.dtype} with {array.ndim} dimensions is no mask")
    except (OSError, ValueError, SyntaxError, TypeError, OverflowError) as error:
        raise DataError(
            f"cannot be read as a mask: {_image.cause_of(error)}",
            row=row,
            column=column,
            hint="mend the file, or leave the row out",
        ) from error
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3:
        array = array[..., 0] if array.shape[-1] == 1 else array[..., :3]
    if size is not None and array.shape[:2] != (size[1], size[0]):
        raise DataError(
            f"is {array.shape[1]} x {array.shape[0]} pixels, its picture {size[0]} x {size[1]}",
            row=row,
            column=column,
            hint="give a mask of the picture's size",
        )
    return array.astype(numpy.int32)


def _array(value: Any) -> numpy.ndarray:
    import numpy

    if isinstance(value, str) and value.endswith(".npy"):
        return numpy.load(value, allow_pickle=False)
    if isinstance(value, str | bytes | Mapping) or hasattr(value, "getbands") or hasattr(value, "__fspath__"):
        image = _image._as_image(value)
        image.load()
        return numpy.asarray(image)
    return numpy.asarray(value)


def flat(array: numpy.ndarray, row: int | None, column: str) -> numpy.ndarray:
    """[height, width] of a map that may be a colour picture whose channels are alike."""
    if array.ndim == 2:
        return array
    if not (array == array[..., :1]).all():
        raise DataError(
            "is a colour picture", row=row, column=column, hint="give the numbers of labels (mode L, P or I)"
        )
    return array[..., 0]


# ---------------------------------------------------------------- instances and panoptic segments


def instances_of(row: Row, position: int | None, size: tuple[int, int], number: Number, ignored: int) -> Segments:
    """Instances from `objects` (polygons or run lengths), from `mask` with `instances`, or from a colour `mask` (red
    the label, green the instance).

    Args:
        number: makes label numbers of the data's values.
        ignored: value of `mask` that does not count.
    """
    if row.get("objects") is not None:
        return _from_objects(row["objects"], position, size, number)
    labels, ids = _labels_and_ids(row, position, size)
    kinds: list[int] = []
    numbered = ids * 0
    for found in _distinct(ids[(ids != 0) & (labels != ignored)]):
        place = ids == found
        kinds.append(number(_commonest(labels[place & (labels != ignored)]), position, "mask"))
        numbered[place] = len(kinds)
    return Segments(numbered, kinds, [False] * len(kinds))


def panoptic_of(row: Row, position: int | None, size: tuple[int, int], number: Number, ignored: int) -> Segments:
    """Panoptic segments from `mask` with `segments_info` (COCO's: id = red + 256 green + 65536 blue), or from `mask`
    with `instances`: what belongs to no instance is one segment for each label."""
    import numpy

    if row.get("segments_info") is not None:
        return _from_segments(row, position, size, number)
    if "segments_info" in row and row.get("instances") is None:
        raise DataError("is empty", row=position, column="segments_info", hint="leave the row out, or map `instances`")
    things = instances_of({**row, "objects": None}, position, size, number, ignored)
    labels, ids = _labels_and_ids(row, position, size)
    numbered, kinds = things.ids.copy(), list(things.labels)
    rest = (ids == 0) & (labels != ignored)
    for value in _distinct(labels[rest]):
        kinds.append(number(value, position, "mask"))
        numbered[rest & (labels == value)] = len(kinds)
    return Segments(numpy.ascontiguousarray(numbered), kinds, [False] * len(kinds))


def labels_of_segments(segments: Segments, ignored: int) -> numpy.ndarray:
    """int32 [height, width]: the label of each pixel's segment, `ignored` where there is none."""
    import numpy

    return numpy.array([ignored, *segments.labels], numpy.int32)[segments.ids]


def tells_segments(row: Row, mask: numpy.ndarray) -> bool:
    """Whether a mask holds COCO's segment ids in its colours, and `segments_info` what they are."""
    return mask.ndim == 3 and row.get("segments_info") is not None


def _labels_and_ids(row: Row, position: int | None, size: tuple[int, int]) -> tuple[numpy.ndarray, numpy.ndarray]:
    mask = open_map(row.get("mask"), position, "mask", size)
    if row.get("instances") is not None:
        return flat(mask, position, "mask"), flat(
            open_map(row["instances"], position, "instances", size), position, "instances"
        )
    if mask.ndim == 3:
        return mask[..., 0], mask[..., 1]
    raise DataError(
        "is missing",
        row=position,
        column="instances",
        hint="give `instances` beside `mask`, `objects` with `segmentation`, or `segments_info` (panoptic)",
    )


def _distinct(values: numpy.ndarray) -> list[int]:
    import numpy

    return [int(value) for value in numpy.unique(values)]


def _commonest(values: numpy.ndarray) -> int:
    import numpy

    found, counts = numpy.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _from_segments(row: Row, position: int | None, size: tuple[int, int], number: Number) -> Segments:
    import numpy

    mask = open_map(row.get("mask"), position, "mask", size)
    ids = mask if mask.ndim == 2 else mask[..., 0] + 256 * mask[..., 1] + 65536 * mask[..., 2]
    entries = _boxes.columns_of(row["segments_info"], position, "segments_info")
    names = next((key for key in ("category_id", "category", "label") if key in entries), None)
    if entries and ("id" not in entries or names is None):
        raise DataError(
            f"has {', '.join(sorted(entries))}, not `id` and `category_id`",
            row=position,
            column="segments_info",
            hint="write [{id, category_id}, ...]",
        )
    numbered, kinds, crowd = numpy.zeros_like(ids), [], []
    known = entries.get("id", [])
    values, crowds = (
        _boxes.beside(entries, [name], len(known), position, "segments_info") for name in (names or "", "iscrowd")
    )
    for own, value, many in zip(known, values, crowds):
        place = ids == own
        if place.any():
            kinds.append(number(value, position, "segments_info"))
            crowd.append(bool(many))
            numbered[place] = len(kinds)
    return Segments(numbered, kinds, crowd)


def _from_objects(value: Any, position: int | None, size: tuple[int, int], number: Number) -> Segments:
    """Where objects overlap, the smaller one has the pixel in `ids`; `masks` keeps both."""
    import numpy

    columns = _boxes.columns_of(value, position)
    written = columns.get("segmentation") or []
    kinds = [number(entry, position, "objects") for entry in _boxes.categories_of(value, position)]
    if len(written) != len(kinds):
        raise DataError(
            f"{len(written)} segmentations and {len(kinds)} categories",
            row=position,
            column="objects",
            hint="give each object its `segmentation` (polygons or run lengths) and its `category`",
        )
    masks = [_decoded(entry, place, position, size) for place, entry in enumerate(written)]
    ids = numpy.zeros((size[1], size[0]), numpy.int32)
    for place in sorted(range(len(masks)), key=lambda place: -int(masks[place].sum())):
        ids[masks[place]] = place + 1
    crowd = [bool(entry) for entry in _boxes.beside(columns, ("iscrowd", "crowd"), len(kinds), position)]
    return Segments(ids, kinds, crowd, masks)


def _decoded(entry: Any, place: int, position: int | None, size: tuple[int, int]) -> numpy.ndarray:
    """bool [height, width] of polygons [[x, y, x, y, ...], ...] or of run lengths {size, counts}."""
    from faster_coco_eval.core import mask as coco

    try:
        if isinstance(entry, Mapping):
            rle = dict(entry)
            if list(rle["size"]) != [size[1], size[0]]:
                raise ValueError(f"its size is {list(rle['size'])}, the picture's {[size[1], size[0]]}")
            if isinstance(rle["counts"], list):
                rle = coco.frPyObjects(rle, size[1], size[0])
            elif isinstance(rle["counts"], str):
                rle["counts"] = rle["counts"].encode()
            return coco.decode(rle).astype(bool)
        if not isinstance(entry, Sequence) or not all(len(polygon) >= 6 for polygon in entry) or not entry:
            raise ValueError("a polygon needs three points or more")
        polygons = [[float(number) for number in polygon] for polygon in entry]
        if not all(math.isfinite(number) for polygon in polygons for number in polygon):
            raise ValueError("its numbers are not finite")  # the library that fills polygons would end the process
        return coco.decode(coco.merge(coco.frPyObjects(polygons, size[1], size[0]))).astype(bool)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"segmentation {place} cannot be read: {error}",
            row=position,
            column="objects",
            hint="write polygons [[x, y, x, y, ...]] or run lengths {size, counts}",
        ) from error
