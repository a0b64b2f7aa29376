"""Images and maps of numbers from whatever a column holds, and tensors back to images.

Entry points: `open_image` for images, `open_map` for masks and depth maps. Image processors and costs are in `inputs`,
random changes in `augmentation`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from topwork import Batch, DataError, Row, TopworkError, map_tensors

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL.Image import Image

# ---------------------------------------------------------------- opening


def open_image(value: Any, index: int | None, column: str = "image", mode: str = "RGB") -> Image:
    """Open an image: a PIL image, {bytes, path} as in `datasets`, a path, bytes or an array.

    Orientation tags are applied. 16-bit grey becomes 8-bit by dropping the lower byte.

    Args:
        index: index of the row, for messages.
        mode: PIL mode of the result.

    Raises:
        DataError: None, a missing file, or anything that is no image.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if value is None:
        raise DataError("is empty", row=index, column=column, hint="give an image, or leave the row out")
    try:
        image = to_pil(value)
        image.load()
        if not (image.width and image.height):
            raise ValueError("it has no pixels")
        upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, pil.DecompressionBombError) as error:
        raise DataError(
            f"cannot be read as an image: {describe_cause(error)}",
            row=index,
            column=column,
            hint="mend the file, or leave the row out",
        ) from error
    if upright.mode.startswith("I;16"):
        import numpy

        upright = pil.fromarray((numpy.asarray(upright) >> 8).astype(numpy.uint8))
    return upright.convert(mode)


def to_pil(value: Any) -> Image:
    """Return the PIL image of a value, its pixels not yet decoded where it is a file.

    Raises:
        OSError, ValueError: no such file, no image, or an array of another type or shape.
    """
    from PIL import Image as pil

    if isinstance(value, pil.Image):
        return value
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return pil.open(io.BytesIO(value["bytes"]))
        if value.get("path"):
            return pil.open(value["path"])
        raise ValueError("neither bytes nor a path")
    if isinstance(value, bytes):
        return pil.open(io.BytesIO(value))
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return pil.open(value)
    import numpy

    array = numpy.asarray(value)
    if array.dtype != numpy.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"{type(value).__name__} is no image; arrays are uint8, [height, width] or with channels last")
    return pil.fromarray(array)


def describe_cause(error: Exception) -> str:
    """Return a library's message about a file: one line, without addresses of objects in memory."""
    return (str(error) or type(error).__name__).splitlines()[0].split(" <_io.", 1)[0]


def open_map(
    value: Any,
    index: int | None,
    column: str,
    noun: str,
    hint: str,
    check: Callable[[numpy.ndarray], numpy.ndarray],
    size: tuple[int, int] | None = None,
    read: Callable[[Any], numpy.ndarray | None] = lambda value: None,
) -> numpy.ndarray:
    """Open numbers of pixels: a PIL image (a palette's numbers, not its colours), {bytes, path}, a path, bytes, a .npy
    file, an array or nested lists.

    Args:
        index: index of the row, for messages.
        noun: name of such a map in messages.
        hint: hint of the error for a value that cannot be read.
        check: returns an array as the task wants it, [height, width, ...]; raises ValueError.
        size: width and height that the map must have.
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
    if size is not None and array.shape[:2] != (size[1], size[0]):
        cause = f"is {array.shape[1]} x {array.shape[0]} pixels, its image {size[0]} x {size[1]}"
        hint = f"give a {noun} of the image's size, resized by nearest pixels"
        raise DataError(cause, row=index, column=column, hint=hint)
    return array


def _array(value: Any) -> numpy.ndarray:
    import numpy

    if (isinstance(value, str) or hasattr(value, "__fspath__")) and str(value).endswith(".npy"):
        return numpy.load(value, allow_pickle=False)
    if isinstance(value, str | bytes | Mapping) or hasattr(value, "getbands") or hasattr(value, "__fspath__"):
        image = to_pil(value)
        image.load()
        return numpy.asarray(image)
    return numpy.asarray(value)


def mode_of(config: Any) -> str:
    """Return the PIL mode of a network's images: "L" for one channel, else "RGB"."""
    return "L" if getattr(config, "num_channels", 3) == 1 else "RGB"


# ---------------------------------------------------------------- statistics


def learn_statistics(rows: Iterable[Row], mode: str, most: int = 1000) -> tuple[list[float], list[float], int, int]:
    """Learn mean and standard deviation of each channel (pixels in 0..1), and the median height and width.

    Images that cannot be read are left out: whether such a row is an error or skipped is decided when it is used.

    Args:
        most: rows that are read, at even distances.

    Raises:
        DataError: none can be read.
    """
    import numpy

    sums, squares, pixels, sizes = 0.0, 0.0, 0, []
    unreadable: DataError | None = None
    for index, row in spread_rows(rows, most):
        try:
            image = open_image(row.get("image"), index, "image", mode)
        except DataError as error:
            unreadable = unreadable or error
            continue
        array = numpy.asarray(image, dtype=numpy.float64) / 255
        sizes.append(array.shape[:2])
        array = array.reshape(array.shape[0] * array.shape[1], -1)
        sums, squares, pixels = sums + array.sum(0), squares + (array**2).sum(0), pixels + len(array)
    if not pixels and unreadable is not None:
        raise unreadable
    if not pixels:
        raise TopworkError("there are no rows to learn the image statistics from", hint="give training rows")
    mean = numpy.asarray(sums) / pixels
    deviation = numpy.sqrt(numpy.maximum(numpy.asarray(squares) / pixels - mean**2, 1e-6))
    height, width = (int(value) for value in numpy.median(numpy.array(sizes), axis=0))
    return [round(float(v), 6) for v in mean], [round(float(v), 6) for v in deviation], height, width


def spread_rows(rows: Any, most: int) -> Iterable[tuple[int, Row]]:
    """Yield rows with their indices: at even distances where the number of rows is known, else the first `most`."""
    if hasattr(rows, "__len__"):
        step = max(1, len(rows) // most)
        for index in range(0, len(rows), step):
            yield index, rows[index]
        return
    for index, row in enumerate(rows):
        if index == most:
            return
        yield index, row


# ---------------------------------------------------------------- tensors


def model_tensors(batch: Batch, model: Any, *without: str) -> dict[str, Any]:
    """Return the inputs of a batch except those named in `without`, floats in the model's dtype."""
    import torch

    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    chosen = {name: value for name, value in batch.inputs.items() if name not in without}
    if dtype == torch.float32:
        return chosen
    return map_tensors(chosen, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def tensor_to_image(pixels: torch.Tensor, processor: Any) -> Image:
    """Return the image of a tensor [channels, height, width], the normalisation of `processor` undone."""
    import torch
    from PIL import Image as pil

    details = getattr(processor, "data_config", None) or {}
    mean = details.get("mean") or (getattr(processor, "do_normalize", False) and processor.image_mean) or 0.0
    deviation = details.get("std") or (getattr(processor, "do_normalize", False) and processor.image_std) or 1.0
    pixels = pixels.detach().float().cpu()
    shape = (-1, 1, 1)
    pixels = pixels * torch.as_tensor(deviation).reshape(shape) + torch.as_tensor(mean).reshape(shape)
    array = (pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pil.fromarray(array[..., 0] if array.shape[-1] == 1 else array[..., :3])


def magnified(image: Image, least: int = 160) -> Image:
    """Return the image in RGB, its pixels repeated until the longer side has at least `least` pixels."""
    from PIL import Image as pil

    factor = -(-least // max(image.size))
    image = image.convert("RGB")
    return image.resize((image.width * factor, image.height * factor), pil.Resampling.NEAREST) if factor > 1 else image
