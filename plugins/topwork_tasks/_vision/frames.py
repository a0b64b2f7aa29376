"""Frames that annotations were drawn on: the upright image, or the raster of a file before its EXIF orientation.

The size that an annotation file declares says which of the two it is; a size of neither is an error. Boxes and masks
follow the image when it is turned upright.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topwork import DataError, Row
from topwork_tasks._vision.headers import orientation_of
from topwork_tasks._vision.images import TURNED

ANNOTATED_SIZE = "[width, height] in pixels of the image that the annotations were drawn on, where their file tells it"


def frame_orientation(row: Row, index: int | None, size: tuple[int, int]) -> int:
    """Return the EXIF orientation by which a row's annotations must be turned; 1 where they are upright.

    Args:
        row: with its image, and perhaps `annotated_size`.
        index: index of the row, for messages.
        size: width and height of the upright image.

    Raises:
        DataError: `annotated_size` is no size, or that of neither frame; names the image's file.
    """
    declared = row.get("annotated_size")
    if declared is None:
        return 1
    try:
        width, height = (int(value) for value in declared)
    except (TypeError, ValueError) as error:
        hint = "write [width, height], or leave it out"
        raise DataError(f"{declared!r} is no size", row=index, column="annotated_size", hint=hint) from error
    if (width, height) == tuple(size):
        return 1
    if (width, height) == tuple(size)[::-1] and (orientation := orientation_of(row.get("image"))) in TURNED:
        return orientation
    raise DataError(
        f"the annotations declare {width} x {height} pixels, {_name(row.get('image'))} has {size[0]} x {size[1]}",
        row=index,
        column="annotated_size",
        hint="annotate the image as it is, or resize its boxes and masks with it",
    )


def frame_size(orientation: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of a frame before it is turned upright."""
    return (size[1], size[0]) if orientation in TURNED else (size[0], size[1])


def _name(image: Any) -> str:
    path = image.get("path") if isinstance(image, Mapping) else image if isinstance(image, str) else None
    return str(path or getattr(image, "filename", None) or "the image")
