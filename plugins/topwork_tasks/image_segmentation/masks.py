"""Masks of segmentation rows as numbers, and the notations of instances and panoptic segments.

Inside topwork a semantic truth is a map of label indices; segments are a map of ids, 0 for nothing, with a label for
each id from 1. The choice among the notations, by the task's options, is in `truth`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks._vision.boxes import categories_of, columns_of, optional_column
from topwork_tasks._vision.frames import frame_orientation, frame_size
from topwork_tasks._vision.headers import orientation_of
from topwork_tasks._vision.images import to_pil, turn_array
from topwork_tasks._vision.maps import open_map

if TYPE_CHECKING:
    import numpy

#: (value in the data, index of the row, column) -> index of the label
LabelOf = Callable[[Any, int | None, str], int]


@dataclass(frozen=True)
class Segments:
    """The segments of an image.

    Args:
        ids: int32 [height, width], 0 for nothing.
        labels: the label index of each id, from id 1.
        crowd: whether an id stands for many things that are not told apart.
        masks: bool [height, width] of each id where segments overlap; None when the ids say all.
    """

    ids: numpy.ndarray
    labels: list[int]
    crowd: list[bool]
    masks: list[numpy.ndarray] | None = None

    def mask(self, index: int) -> numpy.ndarray:
        """Return the pixels of the segment at an index, from 0, as bool [height, width]."""
        return self.masks[index] if self.masks is not None else self.ids == index + 1


# ---------------------------------------------------------------- maps of numbers


def open_mask(
    value: Any,
    index: int | None,
    column: str,
    size: tuple[int, int] | None = None,
    orientation: Callable[[], int] = lambda: 1,
) -> numpy.ndarray:
    """Open whole numbers of pixels, int32 [height, width] (or [height, width, 3] of a colour image).

    Args:
        value: see `open_map`.
        index: index of the row, for messages.
        column: name of the column, for messages.
        size: width and height that the map must have.
        orientation: see `open_map`.

    Raises:
        DataError: empty, not readable, no whole numbers, or of another size.
    """
    hint = "mend the file, or leave the row out"
    return open_map(value, index, column, "mask", hint, _whole_numbers, size, orientation)


def open_row_mask(
    row: Row, index: int | None, column: str, size: tuple[int, int], colours: bool = False
) -> numpy.ndarray:
    """Open a map of a row, turned upright with the row's image; with `colours` a palette's colours, not its numbers."""
    value = row.get(column)
    if colours and value is not None:
        value = palette_colours(value)
    return open_mask(value, index, column, size, lambda: orientation_of(row.get("image")))


def palette_colours(value: Any) -> Any:
    """Return the colours of an image with a palette; any other value as it is."""
    try:
        image = to_pil(value)
    except (OSError, ValueError, SyntaxError, TypeError):
        return value  # opening it as a map gives the error
    return image.convert("RGB") if getattr(image, "mode", "") == "P" else value


def _whole_numbers(array: numpy.ndarray) -> numpy.ndarray:
    import numpy

    if array.dtype.kind == "f" and not (numpy.isfinite(array).all() and (array == numpy.rint(array)).all()):
        raise ValueError("its numbers are not whole")
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3):
        raise ValueError(f"an array of {array.dtype} with {array.ndim} dimensions is no mask")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3:
        array = array[..., 0] if array.shape[-1] == 1 else array[..., :3]
    return array.astype(numpy.int32)


def one_channel(array: numpy.ndarray, index: int | None, column: str) -> numpy.ndarray:
    """Return [height, width] of a map that may be a colour image whose channels are alike."""
    if array.ndim == 2:
        return array
    if not (array == array[..., :1]).all():
        raise DataError(
            "is a colour image",
            row=index,
            column=column,
            hint="give the numbers of labels (mode L, P or I), or `colours`",
        )
    return array[..., 0]


def values_of_colours(
    mask: numpy.ndarray,
    colours: Mapping[str, tuple[int, int, int]],
    names: Sequence[str],
    ignored: int,
    index: int | None,
) -> numpy.ndarray:
    """Return the index in `names` of each pixel's colour, int32 [height, width].

    It is `ignored` for colours whose name is not among them.

    Args:
        mask: [height, width, 3].
        colours: name -> red, green, blue.
        names: label names.
        ignored: value for colours of other names.
        index: index of the row, for messages.

    Raises:
        DataError: a colour that the table does not have.
    """
    import numpy

    codes = mask[..., 0] * 65536 + mask[..., 1] * 256 + mask[..., 2]
    values = numpy.full(codes.shape, -1, numpy.int32)
    for name, (red, green, blue) in colours.items():
        values[codes == red * 65536 + green * 256 + blue] = names.index(name) if name in names else ignored
    if (values == -1).any():
        unknown = int(codes[values == -1][0])
        cause = (
            f"has the colour {[unknown >> 16, unknown >> 8 & 255, unknown & 255]} in {int((values == -1).sum())} pixels"
        )
        hint = "add it to `colours`; names that are not in `label_names` do not count"
        raise DataError(f"{cause}, which is not in the table of colours", row=index, column="mask", hint=hint)
    return values


def tells_segments(row: Row, mask: numpy.ndarray) -> bool:
    """Return whether a mask holds COCO's segment ids in its colours, described in `segments_info`."""
    return mask.ndim == 3 and row.get("segments_info") is not None


# ---------------------------------------------------------------- instances and panoptic segments


def instances_of(row: Row, index: int | None, size: tuple[int, int], label_of: LabelOf, ignored: int) -> Segments:
    """Read a row's instances.

    They come from `objects` (polygons or run lengths), from `mask` with `instances`, or from a colour `mask` (red the
    label, green the instance).

    Args:
        row: the row.
        index: index of the row, for messages.
        size: width and height of the image.
        label_of: maps what the row has as labels to label indices.
        ignored: value of `mask` that does not count.
    """
    import numpy

    if row.get("objects") is not None:
        return _from_objects(row, index, size, label_of)
    values, ids = _values_and_ids(row, index, size)
    labels: list[int] = []
    numbered = ids * 0
    for identity in numpy.unique(ids[(ids != 0) & (values != ignored)]).tolist():
        pixels = ids == identity
        labels.append(label_of(_commonest(values[pixels & (values != ignored)]), index, "mask"))
        numbered[pixels] = len(labels)
    return Segments(numbered, labels, [False] * len(labels))


def panoptic_of(row: Row, index: int | None, size: tuple[int, int], label_of: LabelOf, ignored: int) -> Segments:
    """Read a row's panoptic segments.

    They come from `mask` with `segments_info` (COCO's: id = red + 256 green + 65536 blue), or from `mask` with
    `instances`: the pixels that belong to no instance are one segment for each label.
    """
    import numpy

    if row.get("segments_info") is not None:
        return _from_segments_info(row, index, size, label_of)
    if "segments_info" in row and row.get("instances") is None:
        raise DataError("is empty", row=index, column="segments_info", hint="leave the row out, or map `instances`")
    things = instances_of({**row, "objects": None}, index, size, label_of, ignored)
    values, ids = _values_and_ids(row, index, size)
    numbered, labels = things.ids.copy(), list(things.labels)
    rest = (ids == 0) & (values != ignored)
    for value in numpy.unique(values[rest]).tolist():
        labels.append(label_of(value, index, "mask"))
        numbered[rest & (values == value)] = len(labels)
    return Segments(numpy.ascontiguousarray(numbered), labels, [False] * len(labels))


def labels_of_segments(segments: Segments, ignored: int) -> numpy.ndarray:
    """Return the label of each pixel's segment, int32 [height, width]; `ignored` where there is none."""
    import numpy

    return numpy.array([ignored, *segments.labels], numpy.int32)[segments.ids]


def segment_categories(entries: Mapping[str, list[Any]]) -> list[Any]:
    """Return the categories in the columns of `segments_info`; empty without any."""
    return next((entries[key] for key in ("category_id", "category", "label") if key in entries), [])


def _values_and_ids(row: Row, index: int | None, size: tuple[int, int]) -> tuple[numpy.ndarray, numpy.ndarray]:
    mask = open_row_mask(row, index, "mask", size)
    if row.get("instances") is not None:
        instances = open_row_mask(row, index, "instances", size)
        return one_channel(mask, index, "mask"), one_channel(instances, index, "instances")
    if mask.ndim == 3:
        return mask[..., 0], mask[..., 1]
    raise DataError(
        "is missing",
        row=index,
        column="instances",
        hint="give `instances` beside `mask`, `objects` with `segmentation`, or `segments_info` (panoptic)",
    )


def _commonest(values: numpy.ndarray) -> int:
    import numpy

    distinct, counts = numpy.unique(values, return_counts=True)
    return int(distinct[counts.argmax()])


def _from_segments_info(row: Row, index: int | None, size: tuple[int, int], label_of: LabelOf) -> Segments:
    import numpy

    mask = open_row_mask(row, index, "mask", size)
    ids = mask if mask.ndim == 2 else mask[..., 0] + 256 * mask[..., 1] + 65536 * mask[..., 2]
    entries = columns_of(row["segments_info"], index, "segments_info")
    known, categories = entries.get("id", []), segment_categories(entries)
    if entries and not ("id" in entries and {"category_id", "category", "label"} & set(entries)):
        cause = f"has {', '.join(sorted(entries))}, not `id` and `category_id`"
        raise DataError(cause, row=index, column="segments_info", hint="write [{id, category_id}, ...]")
    if len(known) != len(categories):
        cause = f"{len(known)} ids and {len(categories)} categories"
        raise DataError(cause, row=index, column="segments_info", hint="give each segment both")
    numbered, labels, crowd = numpy.zeros_like(ids), [], []
    crowds = optional_column(entries, ("iscrowd",), len(known), index, "segments_info")
    for identity, category, is_crowd in zip(known, categories, crowds):
        pixels = ids == identity
        if pixels.any():
            labels.append(label_of(category, index, "segments_info"))
            crowd.append(bool(is_crowd))
            numbered[pixels] = len(labels)
    return Segments(numbered, labels, crowd)


def _from_objects(row: Row, index: int | None, size: tuple[int, int], label_of: LabelOf) -> Segments:
    """Make segments of objects: where two overlap, the smaller has the pixel in `ids`, and `masks` keeps both."""
    import numpy

    value, orientation = row["objects"], frame_orientation(row, index, size)
    frame = frame_size(orientation, size)
    columns = columns_of(value, index)
    written = columns.get("segmentation") or []
    labels = [label_of(category, index, "objects") for category in categories_of(value, index)]
    if len(written) != len(labels):
        raise DataError(
            f"{len(written)} segmentations and {len(labels)} categories",
            row=index,
            column="objects",
            hint="give each object its `segmentation` (polygons or run lengths) and its `category`",
        )
    frame_masks = [_decoded_object(segmentation, number, index, frame) for number, segmentation in enumerate(written)]
    masks = [turn_array(mask, orientation) for mask in frame_masks]
    ids = numpy.zeros((size[1], size[0]), numpy.int32)
    for number in sorted(range(len(masks)), key=lambda number: -int(masks[number].sum())):
        ids[masks[number]] = number + 1
    crowd = [bool(flag) for flag in optional_column(columns, ("iscrowd", "crowd"), len(labels), index)]
    return Segments(ids, labels, crowd, masks)


def _decoded_object(segmentation: Any, object_index: int, index: int | None, size: tuple[int, int]) -> numpy.ndarray:
    """Return bool [height, width] of polygons [[x, y, x, y, ...], ...] or of run lengths {size, counts}."""
    from faster_coco_eval.core import mask as coco

    try:
        if isinstance(segmentation, Mapping):
            rle = dict(segmentation)
            if not rle["size"]:
                raise ValueError(rle["counts"])  # the reader of a COCO file says what is wrong with it
            if list(rle["size"]) != [size[1], size[0]]:
                raise ValueError(f"its size is {list(rle['size'])}, the image's {[size[1], size[0]]}")
            if isinstance(rle["counts"], list):
                rle = coco.frPyObjects(rle, size[1], size[0])
            elif isinstance(rle["counts"], str):
                rle["counts"] = rle["counts"].encode()
            return coco.decode(rle).astype(bool)
        if not isinstance(segmentation, Sequence) or not segmentation or any(len(part) < 6 for part in segmentation):
            raise ValueError("a polygon needs three points or more")
        polygons = [[float(number) for number in polygon] for polygon in segmentation]
        if not all(math.isfinite(number) for polygon in polygons for number in polygon):
            raise ValueError("its numbers are not finite")  # the library that fills polygons would end the process
        return coco.decode(coco.merge(coco.frPyObjects(polygons, size[1], size[0]))).astype(bool)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"segmentation {object_index} cannot be read: {error}",
            row=index,
            column="objects",
            hint="write polygons [[x, y, x, y, ...]] or run lengths {size, counts}",
        ) from error
