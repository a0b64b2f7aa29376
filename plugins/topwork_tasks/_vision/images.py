"""Images from whatever a column holds.

Entry point: `open_image`. Masks and depth maps are in `maps`, image processors and costs in `inputs`, random changes in
`augmentation`.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import DataError

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

# ---------------------------------------------------------------- opening

#: images of more pixels are reduced while they are read, to `_REDUCED` pixels or a little more
_LARGEST, _REDUCED = 2**25, 2**22
#: PIL's modes of more than 8 bits a channel
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_SHAPES = "[height, width], or [height, width, channels] with 1, 3 or 4 channels"
#: EXIF tag of the orientation; from 5 on width and height change places
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Reading:
    """Rule by which a task reads images.

    Args:
        mode: PIL mode of the result.
        pixel_range: values of images deeper than 8 bits that become 0 and 255, with all between in proportion; values
            outside count as the nearer end. None: such images are refused.
        background: colour behind transparent pixels.
        least: height and width that a very large image keeps when it is reduced.
    """

    mode: str = "RGB"
    pixel_range: tuple[float, float] | None = None
    background: str = "white"
    least: tuple[int, int] | None = None


def open_image(value: Any, index: int | None, column: str = "image", reading: Reading = Reading()) -> Image:
    """Open an image: a PIL image, {bytes, path} as in `datasets`, a path, bytes or an array.

    Orientation tags are applied. Images of more than 33 megapixels are reduced.

    Args:
        value: what the column holds.
        index: index of the row, for messages.
        column: name of the column, for messages.
        reading: colours, range, background and least size.

    Raises:
        DataError: None, a missing file, anything that is no image, or one deeper than 8 bits without a pixel range.
    """
    from PIL import Image as pil

    if value is None:
        raise DataError("is empty", row=index, column=column, hint="give an image, or leave the row out")
    try:
        pixels = read_pixels(value, reading.least)
        if not isinstance(pixels, pil.Image):
            pixels = _scaled(pixels, reading.pixel_range)
        return _opaque(pixels, reading.background).convert(reading.mode)
    except _UnknownRange as error:
        hint = "set the task's `pixel_range: [lowest, highest]`: these values become black and white"
        raise DataError(str(error), row=index, column=column, hint=hint) from None
    except FileNotFoundError as error:
        cause = f"cannot be read as an image: the file {error.filename} does not exist"
        hint = "correct the path; of a table, `options: {files: ...}` names the folder of its files"
        raise DataError(cause, row=index, column=column, hint=hint) from error
    except (OSError, ValueError, SyntaxError, TypeError, pil.DecompressionBombError) as error:
        raise DataError(
            f"cannot be read as an image: {describe_cause(error)}",
            row=index,
            column=column,
            hint="mend the file, or leave the row out",
        ) from error


def read_pixels(value: Any, least: tuple[int, int] | None = None) -> Image | numpy.ndarray:
    """Return an upright PIL image, or the numbers of an image deeper than 8 bits, [height, width(, channels)].

    Args:
        value: what the column holds.
        least: height and width that a very large image keeps.

    Raises:
        OSError, ValueError, SyntaxError, TypeError: it is no image, or has no pixels.
    """
    import numpy

    image = to_pil(value)
    if isinstance(image, numpy.ndarray):
        return image
    deep = _deep_colours(image, value)
    if deep is not None:
        return turn_array(deep, image.getexif().get(ORIENTATION, 1))
    factor = _reduction(image.size, least)
    if factor > 1 and image.format == "JPEG":
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    if not (image.width and image.height):
        raise ValueError("it has no pixels")
    orientation = image.getexif().get(ORIENTATION, 1)
    if image.mode in _DEEP_MODES:
        return turn_array(numpy.asarray(image), orientation)
    return _turned(_reduced(image, _reduction(image.size, least)), orientation)


def _turned(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if method is None else image.transpose(method)


def _reduction(size: tuple[int, int], least: tuple[int, int] | None) -> int:
    """Return the whole factor by which an image of this width and height is reduced."""
    if size[0] * size[1] <= _LARGEST:
        return 1
    factor = math.ceil(math.sqrt(size[0] * size[1] / _REDUCED))
    if least is not None:
        longer, shorter = max(least), min(least)  # the image may be turned yet
        factor = min(factor, max(size) // longer, min(size) // shorter)
    return max(1, factor)


def _reduced(image: Image, factor: int) -> Image:
    """Reduce by a whole factor, a band at a time: one bit a pixel, or a palette, would take four times the memory."""
    if factor == 1:
        return image
    from PIL import Image as pil

    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")
    mode = "RGBA" if transparent else {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    canvas = pil.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    step = factor * max(1, 2**22 // (image.width * factor))
    for top in range(0, image.height, step):
        band = image.crop((0, top, image.width, min(top + step, image.height))).convert(mode)
        canvas.paste(band.reduce(factor), (0, top // factor))
    return canvas


def open_file(source: Any) -> Image:
    """Open an image file, its pixels not yet decoded, without PIL's warning of many pixels.

    `read_pixels` reduces very large images, and PIL refuses twice the pixels of its warning.

    Raises:
        OSError: no such file, or a pipe or device, of which reading may never end.
    """
    from PIL import Image as pil

    if isinstance(source, str | os.PathLike):
        check_regular(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pil.DecompressionBombWarning)
        return pil.open(source)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, a socket or a device: reading it may never end.

    Raises:
        OSError: the path is one of these.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(f"{os.fspath(path)} is no regular file")


def to_pil(value: Any) -> Any:
    """Return the PIL image of a value; an array deeper than 8 bits as an array.

    The pixels of a file are not yet decoded.

    Raises:
        OSError, ValueError: no such file, no image, or an array of another type or shape.
    """
    from PIL import Image as pil

    if isinstance(value, pil.Image):
        return value
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return open_file(io.BytesIO(value["bytes"]))
        if value.get("path"):
            return open_file(value["path"])
        raise ValueError("neither bytes nor a path")
    if isinstance(value, bytes):
        return open_file(io.BytesIO(value))
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return open_file(value)
    import numpy

    array = numpy.asarray(value)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if (
        array.dtype.kind not in "buif"
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[-1] not in (3, 4))
    ):
        raise ValueError(f"an array of {array.dtype} {list(array.shape)} is no image; arrays are {_SHAPES}")
    if not array.size:
        raise ValueError("it has no pixels")
    if array.dtype == bool:
        array = array.astype(numpy.uint8) * 255
    return pil.fromarray(array) if array.dtype == numpy.uint8 else array


def _deep_colours(image: Image, value: Any) -> numpy.ndarray | None:
    """Return the numbers of a colour PNG of 16 bits a channel; None for any other image.

    PIL reads the upper byte of such a file only.

    Raises:
        ValueError: another format of 16 bits a channel.
    """
    tiles = getattr(image, "tile", None) or ()
    if image.mode in _DEEP_MODES or not any(";16" in str(tile[3]) for tile in tiles if len(tile) > 3):
        return None
    if image.format != "PNG":
        raise ValueError(f"a {image.format} of 16 bits a colour; store it as PNG, or give an array")
    import numpy
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision hands its decoders over to torchcodec
        from torchvision.io import ImageReadMode, decode_image

    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    source = value if isinstance(value, bytes) else Path(value).read_bytes()
    pixels = decode_image(torch.frombuffer(bytearray(source), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    array = pixels.permute(1, 2, 0).numpy()
    return numpy.ascontiguousarray(array[..., 0] if array.shape[-1] < 3 else array[..., :3])


def may_be_deep(value: Any) -> bool:
    """Return whether an image may be deeper than 8 bits, from its header alone; True where that cannot be read."""
    try:
        image = to_pil(value)
    except Exception:  # whatever it is, decoding gives the better message
        return True
    return not hasattr(image, "getbands") or image.mode in _DEEP_MODES or ";16" in str(getattr(image, "tile", ""))


class _UnknownRange(ValueError):
    """An image deeper than 8 bits that no known range of values fits."""


def _scaled(array: numpy.ndarray, pixel_range: tuple[float, float] | None) -> Image:
    """Return the 8-bit image of deeper numbers.

    Raises:
        ValueError: numbers that are not finite. _UnknownRange: no range, or most numbers lie outside.
    """
    import numpy
    from PIL import Image as pil

    if array.dtype.kind == "f" and not numpy.isfinite(array).all():
        raise ValueError("it has numbers that are not finite")
    lowest, highest = float(array.min()), float(array.max())
    shown = f"holds {array.dtype} from {lowest:g} to {highest:g}, deeper than 8 bits"
    if pixel_range is None:
        raise _UnknownRange(f"{shown}, and their scale is not known")
    low, high = pixel_range
    if (lowest < low or highest > high) and ((array < low) | (array > high)).mean() > 0.5:
        raise _UnknownRange(f"{shown}, mostly outside the known range of {low:g} to {high:g}")
    share = (array.astype(numpy.float64) - low) * (255 / (high - low))
    return pil.fromarray(numpy.rint(share).clip(0, 255).astype(numpy.uint8))


def _opaque(image: Image, background: str) -> Image:
    """Return the image with a colour behind its transparent pixels."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    from PIL import Image as pil

    image = image.convert("RGBA")
    canvas = pil.new("RGBA", image.size, background)
    canvas.alpha_composite(image)
    return canvas


# ---------------------------------------------------------------- orientation


def turn_array(array: numpy.ndarray, orientation: int) -> numpy.ndarray:
    """Turn an array [height, width, ...] upright by an EXIF orientation (1 to 8; any other leaves it as it is)."""
    import numpy

    if orientation in TURNED:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return numpy.ascontiguousarray(array)


def turn_boxes(boxes: numpy.ndarray, orientation: int, size: tuple[int, int]) -> numpy.ndarray:
    """Turn corners [n, 4] upright by an EXIF orientation.

    Args:
        boxes: left, top, right and bottom in pixels.
        orientation: 1 to 8, as EXIF numbers them.
        size: width and height of the upright image.
    """
    if orientation in TURNED:
        boxes = boxes[:, [1, 0, 3, 2]]
    boxes = boxes.copy()
    if orientation in (2, 3, 6, 7):
        boxes[:, [0, 2]] = size[0] - boxes[:, [2, 0]]
    if orientation in (3, 4, 7, 8):
        boxes[:, [1, 3]] = size[1] - boxes[:, [3, 1]]
    return boxes


def describe_cause(error: Exception) -> str:
    """Return a library's message about a file: one line, without addresses of objects in memory."""
    return (str(error) or type(error).__name__).splitlines()[0].split(" <_io.", 1)[0]


def mode_of(config: Any) -> str:
    """Return the PIL mode of a network's images: "L" for one channel, else "RGB"."""
    return "L" if getattr(vision_part(config), "num_channels", 3) == 1 else "RGB"


def vision_part(config: Any) -> Any:
    """Return the part of a config that describes images: of CLIP and its kind one of several, else all of it."""
    return getattr(config, "vision_config", None) or config


def magnified(image: Image, least: int = 160) -> Image:
    """Return the image in RGB, its pixels repeated until the longer side has at least `least` pixels."""
    from PIL import Image as pil

    factor = -(-least // max(image.size))
    image = image.convert("RGB")
    return image.resize((image.width * factor, image.height * factor), pil.Resampling.NEAREST) if factor > 1 else image
