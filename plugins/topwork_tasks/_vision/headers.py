"""Sizes of images and maps from the headers of their files, without decoding them.

`may_be_refused` serves `Task.precheck` of the image tasks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from topwork import DataError, Row
from topwork_tasks._vision.images import ORIENTATION, TURNED, check_regular, may_be_deep, open_file, to_pil

#: what a whole file ends with, shortly before its last byte; within the pixels neither can occur
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 1024


def size_of(value: Any) -> tuple[int, int] | None:
    """Return width and height of an image or a map of numbers from its header, orientation tags applied.

    None: the header does not tell them, or the file lacks the mark of its end (JPEG, PNG); decode it to find out.
    """
    try:
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value["path"]
        if isinstance(value, bytes):
            return _of_file(io.BytesIO(value))
        if isinstance(value, str) or hasattr(value, "__fspath__"):
            return _of_path(os.fspath(value))
        if hasattr(value, "getbands"):
            return _upright_size(value)
        import numpy

        return _of_shape(numpy.shape(value))
    except Exception:  # whatever it is, decoding gives the better message
        return None


def orientation_of(value: Any) -> int:
    """Return the EXIF orientation (1 to 8) of an image's file; 1 for anything else."""
    try:
        return int(to_pil(value).getexif().get(ORIENTATION, 1))
    except Exception:  # whatever it is, decoding gives the better message
        return 1


def may_be_refused(row: Row, *maps: str, check: Callable[[Row, tuple[int, int]], Any] | None = None) -> bool:
    """Return whether, by headers, the row's `image` may be refused, or its maps for another size than the image.

    Args:
        row: the row.
        *maps: names of columns; a row may do without them.
        check: (row, width and height of the image): raises DataError where a target is wrong.
    """
    size = size_of(row.get("image"))
    if size is None or may_be_deep(row["image"]):
        return True
    if any(row.get(name) is not None and size_of(row[name]) != size for name in maps):
        return True
    try:
        if check is not None:
            check(row, size)
    except DataError:
        return True
    return False


def _of_path(path: str) -> tuple[int, int] | None:
    check_regular(path)
    if path.endswith(".npy"):
        import numpy

        return _of_shape(numpy.load(path, mmap_mode="r", allow_pickle=False).shape)
    with open(path, "rb") as file:
        return _of_file(file)


def _of_file(file: BinaryIO) -> tuple[int, int] | None:
    with open_file(file) as image:
        size, end = _upright_size(image), _ENDS.get(image.format or "")
        if end is not None:
            file.seek(0, os.SEEK_END)
            file.seek(-min(_TAIL, file.tell()), os.SEEK_END)
            if end not in file.read():
                return None
    return size


def _upright_size(image: Any) -> tuple[int, int] | None:
    width, height = image.size
    # a PNG may hold its orientation behind its pixels; reading it there would decode them
    if (image.format != "PNG" or "exif" in image.info) and image.getexif().get(ORIENTATION) in TURNED:
        width, height = height, width
    return (width, height) if width and height else None


def _of_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the size of an array [height, width], with channels last or a first dimension of 1."""
    if len(shape) == 3 and shape[0] == 1 and shape[2] != 1:
        shape = shape[1:]
    return (shape[1], shape[0]) if len(shape) in (2, 3) and 0 not in shape else None
