"""What the image tasks share: opening pictures, image processors learned from rows, augmentation, and the way back from
a tensor to a picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from topwork import Base, Batch, DataError, Row, TopworkError, UsageError, map_tensors

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Augment = Literal["none", "light", "standard", "strong"]
AUGMENT_HELP = (
    "light: small shifts, zooms and changes of brightness; standard: random crops and mirror images too; "
    "strong: TrivialAugment on top (Mueller and Hutter 2021, arXiv 2103.10158)"
)

# ---------------------------------------------------------------- opening


def open_image(value: Any, row: int | None, column: str, mode: str = "RGB") -> Image:
    """A picture from what a column holds: a PIL image, {bytes, path} as in `datasets`, a path, bytes or an array.

    Orientation tags are applied. 16-bit grey becomes 8-bit by dropping the lower byte. Converted to `mode`.

    Raises:
        DataError: None, a file that is missing or no image, or something else altogether.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if value is None:
        raise DataError("is empty", row=row, column=column, hint="give an image, or leave the row out")
    try:
        image = _as_image(value)
        image.load()
        if not (image.width and image.height):
            raise ValueError("it has no pixels")
        turned = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, pil.DecompressionBombError) as error:
        raise DataError(
            f"cannot be read as an image: {cause_of(error)}",
            row=row,
            column=column,
            hint="mend the file, or leave the row out",
        ) from error
    if turned.mode.startswith("I;16"):
        import numpy

        turned = pil.fromarray((numpy.asarray(turned) >> 8).astype(numpy.uint8))
    return turned.convert(mode)


def cause_of(error: Exception) -> str:
    """What a library said of a file, in one line, without the address of an object in memory."""
    return (str(error) or type(error).__name__).splitlines()[0].split(" <_io.", 1)[0]


def _as_image(value: Any) -> Image:
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


def mode_of(config: Any) -> str:
    """The PIL mode of the pictures that a network takes: "L" for one channel, else "RGB"."""
    return "L" if getattr(config, "num_channels", 3) == 1 else "RGB"


# ---------------------------------------------------------------- image processors


def learn_statistics(rows: Iterable[Row], mode: str, most: int = 1000) -> tuple[list[float], list[float], int, int]:
    """Mean and standard deviation of each channel (pixels in 0..1), and the median height and width, of at most `most`
    rows at even distances. Pictures that cannot be read are passed over: whether such a row is an error or skipped is
    decided when it is used.

    Raises:
        DataError: none can be read.
    """
    import numpy

    sums, squares, pixels, sizes = 0.0, 0.0, 0, []
    unread: DataError | None = None
    for number, row in _spread(rows, most):
        try:
            image = open_image(row.get("image"), number, "image", mode)
        except DataError as error:
            unread = unread or error
            continue
        array = numpy.asarray(image, dtype=numpy.float64) / 255
        sizes.append(array.shape[:2])
        array = array.reshape(array.shape[0] * array.shape[1], -1)
        sums, squares, pixels = sums + array.sum(0), squares + (array**2).sum(0), pixels + len(array)
    if not pixels and unread is not None:
        raise unread
    if not pixels:
        raise TopworkError("there are no rows to learn the image statistics from", hint="give training rows")
    mean = numpy.asarray(sums) / pixels
    deviation = numpy.sqrt(numpy.maximum(numpy.asarray(squares) / pixels - mean**2, 1e-6))
    height, width = (int(value) for value in numpy.median(numpy.array(sizes), axis=0))
    return [round(float(v), 6) for v in mean], [round(float(v), 6) for v in deviation], height, width


def _spread(rows: Any, most: int) -> Iterable[tuple[int, Row]]:
    """Rows with their numbers: at even distances where the number of rows is known, else the first."""
    if hasattr(rows, "__len__"):
        step = max(1, len(rows) // most)
        for number in range(0, len(rows), step):
            yield number, rows[number]
        return
    for number, row in enumerate(rows):
        if number == most:
            return
        yield number, row


def config_size(config: Any) -> tuple[int, int] | None:
    """Height and width that a config asks for, in pixels."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return None


def resizing_processor(config: Any, size: tuple[int, int], mean: list[float], deviation: list[float]) -> Any:
    """An image processor that resizes to `size` (height, width), scales to 0..1 and normalises.

    timm's networks get timm's own: plain transformers looks for no other in their folders.
    """
    from transformers import TimmWrapperImageProcessor, ViTImageProcessor

    height, width = size
    if config.model_type != "timm_wrapper":
        sizes = {"height": height, "width": width}
        return ViTImageProcessor(size=sizes, image_mean=mean, image_std=deviation, do_normalize=True)
    details = {"input_size": [len(mean), height, width], "mean": mean, "std": deviation}
    how = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    return TimmWrapperImageProcessor(
        pretrained_cfg={**config.pretrained_cfg, **details, **how}, architecture=config.architecture
    )


def config_entries(config: Any, processor: Any) -> dict[str, Any]:
    """What the model's config must say for the image processor to come back: timm's have no file of their own."""
    details = getattr(processor, "data_config", None)
    if config.model_type != "timm_wrapper" or details is None:
        return {}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in details.items()}
    return {"pretrained_cfg": {**config.pretrained_cfg, **plain}}


def saved_processor(base: Base, image_size: int | None) -> Any | None:
    """The base's own image processor, None when it has none."""
    found = base.processor("image_processor")
    if found is not None and image_size is not None:
        raise UsageError(
            "`image_size` is for bases without an image processor; this one has its own",
            place="task.image_size",
            hint="leave `image_size` out",
        )
    return found


def model_tensors(batch: Batch, model: Any, *without: str) -> dict[str, Any]:
    """The inputs of a batch, but those named in `without`, floating ones in the model's dtype."""
    import torch

    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    chosen = {name: value for name, value in batch.inputs.items() if name not in without}
    if dtype == torch.float32:
        return chosen
    return map_tensors(chosen, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def cost_budget(device: str) -> int | None:
    """Pixels of a batch for predictions: on a CPU few pictures, whose maps stay in the cache and take little memory;
    but two of the usual sizes, for torch enlarges the maps of a picture alone up to ten times as slowly."""
    return 2**19 if device == "cpu" else None


def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pictures of one size as a batch.

    Raises:
        DataError: they differ in size.
    """
    import torch

    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise DataError(
            f"the image processor makes pictures of different sizes ({sorted(shapes)[0]}, {sorted(shapes)[1]})",
            column="image",
            hint="choose an image processor that resizes to one size",
        )
    return torch.stack(list(tensors))


def picture_of(pixels: torch.Tensor, processor: Any) -> Image:
    """The picture that a tensor [channels, height, width] stands for: normalisation undone."""
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


def enlarged(image: Image, least: int = 160) -> Image:
    """The picture in RGB, its pixels repeated until its longer side has at least `least` pixels."""
    from PIL import Image as pil

    factor = -(-least // max(image.size))
    image = image.convert("RGB")
    return image.resize((image.width * factor, image.height * factor), pil.Resampling.NEAREST) if factor > 1 else image


# ---------------------------------------------------------------- augmentation


def augmentation(kind: Augment, height: int, width: int, boxes: bool = False) -> Callable[..., Any] | None:
    """A transform by torchvision's v2 on PIL images (and, with `boxes`, on boxes with them); None for "none".

    Random draws come from torch's global generator: see `seeded`.
    """
    if kind == "none":
        return None
    from torchvision.transforms import v2

    light: list[Any] = [
        v2.RandomAffine(0 if boxes else 8, translate=(0.08, 0.08), scale=(0.9, 1.1)),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
    ]
    if kind == "light":
        return v2.Compose(light)
    crop = v2.RandomIoUCrop() if boxes else v2.RandomResizedCrop((height, width), scale=(0.35, 1.0), antialias=True)
    standard = [crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)]
    if kind == "strong":
        standard.insert(2, v2.RandomPhotometricDistort() if boxes else v2.TrivialAugmentWide())
    return v2.Compose(standard)


class seeded:
    """Inside, torch draws from a generator of its own that starts at `seed`; outside nothing is changed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed % 2**63

    def __enter__(self) -> None:
        import torch

        self._state = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        import torch

        torch.set_rng_state(self._state)


def row_seed(seed: int, image: Image) -> int:
    """A seed that differs from row to row: from the run's seed and the picture itself."""
    import zlib

    return (seed * 1_000_003 + zlib.crc32(image.tobytes())) % 2**63
