"""Maps of numbers, one for each pixel, from whatever a column holds: masks of labels and depth.

Entry points: `open_map`, and `shrink_map` where the image was reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from topwork import DataError
from topwork_tasks._vision.images import TURNED, check_regular, describe_cause, to_pil, turn_array

if TYPE_CHECKING:
    import numpy


def open_map(
    value: Any,
    index: int | None,
    column: str,
    noun: str,
    hint: str,
    check: Callable[[numpy.ndarray], numpy.ndarray],
    size: tuple[int, int] | None = None,
    orientation: Callable[[], int] = lambda: 1,
    read: Callable[[Any], numpy.ndarray | None] = lambda value: None,
) -> numpy.ndarray:
    """Open numbers of pixels, such as labels or depth.

    Args:
        value: a PIL image (a palette's numbers, not its colours), {bytes, path}, a path, bytes, a .npy file, an array
            or nested lists.
        index: index of the row, for messages.
        column: name of the column, for messages.
        noun: name of such a map in messages.
        hint: hint of the error for a value that cannot be read.
        check: returns an array as the task wants it, [height, width, ...]; raises ValueError.
        size: width and height of the upright image.
        orientation: returns the EXIF orientation of the image's file: a map of the size before turning is turned with
            the image.
        read: reader of further formats; returns None for values that it does not read.

    Raises:
        DataError: empty, not readable, refused by `check`, or of another size.
    """
    if value is None:
        raise DataError("is empty", row=index, column=column, hint=f"give a {noun}, or leave the row out")
    try:
        array = read(value)
        array = check(_array(value) if array is None else array)
    except (OSError, ValueError, SyntaxError, TypeError, OverflowError) as error:
        cause = f"cannot be read as a {noun}: {describe_cause(error)}"
        raise DataError(cause, row=index, column=column, hint=hint) from error
    if size is not None and array.shape[:2] == size != size[::-1] and (turn := orientation()) in TURNED:
        array = turn_array(array, turn)
    if size is not None and array.shape[:2] != (size[1], size[0]):
        cause = f"is {array.shape[1]} x {array.shape[0]} pixels, its image {size[0]} x {size[1]}"
        hint = f"give a {noun} of the image's size, resized by nearest pixels"
        raise DataError(cause, row=index, column=column, hint=hint)
    return array


def _array(value: Any) -> numpy.ndarray:
    import numpy

    if isinstance(value, Mapping) and value.get("bytes") is None and str(value.get("path")).endswith(".npy"):
        value = value["path"]
    if (isinstance(value, str) or hasattr(value, "__fspath__")) and str(value).endswith(".npy"):
        check_regular(value)
        return numpy.load(value, allow_pickle=False)
    if isinstance(value, str | bytes | Mapping) or hasattr(value, "getbands") or hasattr(value, "__fspath__"):
        image = to_pil(value)
        image.load()
        return numpy.asarray(image)
    return numpy.asarray(value)


def shrink_map(values: numpy.ndarray, size: tuple[int, int]) -> numpy.ndarray:
    """Resize a map [height, width] to the width and height of an image that was reduced, by nearest pixels."""
    import numpy

    if values.shape[:2] == (size[1], size[0]):
        return values
    across = (numpy.arange(size[0]) + 0.5) * values.shape[1] / size[0]
    down = (numpy.arange(size[1]) + 0.5) * values.shape[0] / size[1]
    return values[down.astype(int)[:, None], across.astype(int)]
