"""Depth maps: reading them, the losses, and the way back to the size of the picture.

Inside topwork depth is in the unit of the rows after `depth_scale`, float32 [height, width]; 0 marks a pixel without
depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, Json
from topwork_tasks._vision import images as _image
from topwork_tasks.depth_estimation.exr import is_exr, read_exr

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL.Image import Image
    from torch import nn

Loss = Literal["silog", "l1", "scale_shift_invariant"]
_LEAST = 1e-6


def open_depth(
    value: Any, row: int | None, size: tuple[int, int] | None, scale: float, cap: float | None
) -> numpy.ndarray:
    """float32 [height, width] in the rows' unit; 0 where there is no depth: zero, below zero, NaN, infinite, or more
    than `cap`.

    Args:
        value: a PIL image (L, I, I;16 or F), {bytes, path}, a path (.npy, .exr too), bytes, an array or nested lists.
        size: width and height of the picture.
        scale: the value is divided by it: 1000 for millimetres in a 16-bit PNG.

    Raises:
        DataError: empty, not readable, a colour picture, or of another size than the picture.
        UsageError: an EXR file, and no package that reads it.
    """
    import numpy

    if value is None:
        raise DataError("is empty", row=row, column="depth", hint="give a depth map, or leave the row out")
    try:
        array = _array(value)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"an array of {array.dtype} is no depth map")
        if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
            array = array[..., 0] if array.shape[-1] == 1 else array[0]
        if array.ndim != 2:
            raise ValueError(f"it has {array.ndim} dimensions, not height and width")
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise DataError(
            f"cannot be read as a depth map: {_image.cause_of(error)}",
            row=row,
            column="depth",
            hint="give one number a pixel: a grey image, an array, or a .npy file",
        ) from error
    if size is not None and array.shape != (size[1], size[0]):
        raise DataError(
            f"is {array.shape[1]} x {array.shape[0]} pixels, its picture {size[0]} x {size[1]}",
            row=row,
            column="depth",
            hint="resize it to the picture's size, by nearest pixels",
        )
    depth = array.astype(numpy.float64) / scale
    with numpy.errstate(invalid="ignore"):
        valid = numpy.isfinite(depth) & (depth > 0) & (depth <= (cap or numpy.inf))
    return numpy.where(valid, depth, 0).astype(numpy.float32)


def _array(value: Any) -> numpy.ndarray:
    import numpy

    if isinstance(value, str | Path) and str(value).endswith(".npy"):
        return numpy.load(value, allow_pickle=False)
    if is_exr(value):
        return read_exr(value)
    if isinstance(value, str | bytes | Mapping) or hasattr(value, "getbands") or hasattr(value, "__fspath__"):
        image = _image._as_image(value)
        image.load()
        return numpy.asarray(image)
    return numpy.asarray(value)


def resized(depth: numpy.ndarray, size: Sequence[int]) -> torch.Tensor:
    """[height, width] of `size`, by nearest pixels: between two depths there is none."""
    import torch
    from torch.nn import functional

    found = torch.from_numpy(depth)
    if tuple(found.shape) == tuple(size):
        return found
    return functional.interpolate(found[None, None], size=tuple(size), mode="nearest-exact")[0, 0]


# ---------------------------------------------------------------- losses


def row_losses(predicted: torch.Tensor, truth: torch.Tensor, kind: Loss, share: float) -> torch.Tensor:
    """[items]: the loss of each item over its valid pixels; 0 where it has none.

    silog: sqrt(mean(d^2) - share * mean(d)^2) of d = log truth - log prediction (Eigen et al. 2014, arXiv 1406.2283).
    l1: mean of the absolute differences.
    scale_shift_invariant: both maps less their median and divided by their mean distance from it, then l1 (Ranftl et
    al. 2019, arXiv 1907.01341, equations 5 and 6).

    Args:
        predicted: [items, h, w], enlarged to the truth's size.
        truth: [items, height, width], 0 where it is not known.
    """
    import torch
    from torch.nn import functional

    predicted, truth = predicted.float(), truth.float()
    if predicted.shape[-2:] != truth.shape[-2:]:
        predicted = functional.interpolate(
            predicted[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
    losses = []
    for own, wanted in zip(predicted, truth):
        valid = wanted > 0
        if not valid.any():
            losses.append(own.sum() * 0.0)
            continue
        found, wanted = own[valid], wanted[valid]
        if kind == "silog":
            difference = torch.log(wanted) - torch.log(found + _LEAST)
            losses.append((difference.square().mean() - share * difference.mean().square()).clamp(min=1e-12).sqrt())
        elif kind == "l1":
            losses.append((found - wanted).abs().mean())
        else:
            losses.append((_normal(found) - _normal(wanted)).abs().mean())
    return torch.stack(losses)


def _normal(depth: torch.Tensor) -> torch.Tensor:
    centred = depth - depth.median()
    return centred / centred.abs().mean().clamp(min=_LEAST)


def awaken(model: nn.Module, typical: float) -> None:
    """Let a random depth head that ends in a ReLU begin at a typical depth: DPT's begins at 0, where nothing moves."""
    from torch import nn

    config: Any = model.config
    if config.model_type == "dpt" or getattr(config, "depth_estimation_type", "") == "relative":
        last = [layer for layer in model.head.modules() if isinstance(layer, nn.Conv2d) and layer.out_channels == 1]  # type: ignore[union-attr]
        assert last[-1].bias is not None
        nn.init.constant_(last[-1].bias, typical / (getattr(config, "max_depth", None) or 1.0))


# ---------------------------------------------------------------- predictions


def enlarged(depth: torch.Tensor, size: tuple[int, int]) -> numpy.ndarray:
    """float32 [height, width] of the picture's size (width, height), by bicubic interpolation as the Hub's pipeline;
    what that takes below 0 is 0."""
    from torch.nn import functional

    whole = functional.interpolate(
        depth[None, None].float(), size=(size[1], size[0]), mode="bicubic", align_corners=False
    )
    return whole[0, 0].clamp(min=0).cpu().numpy()


class Depth(dict):
    """`{"predicted_depth": float32 [height, width], "depth": PIL image (L, nearest black, farthest white)}`."""

    def __init__(self, predicted: numpy.ndarray) -> None:
        super().__init__(predicted_depth=predicted, depth=_grey(predicted))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self["depth"].size

    def __repr__(self) -> str:
        """Two predictions that differ by rounding only look the same."""
        found = self["predicted_depth"]
        shown = f"{found.min():.4g} to {found.max():.4g}, mean {found.mean():.4g}"
        return f"{{'predicted_depth': <{found.shape[1]}x{found.shape[0]}, {shown}>}}"

    def __reduce__(self) -> tuple:
        return Depth, (self["predicted_depth"],)


def _grey(depth: numpy.ndarray) -> Image:
    from PIL import Image

    span = float(depth.max() - depth.min())
    shares = (depth - depth.min()) / span if span > 0 else depth * 0
    return Image.fromarray((shares * 255).astype("uint8"))


def written(prediction: Mapping[str, Any], folder: Path, name: str, kind: str, scale: float) -> Json:
    """The map as a float32 .npy file, or as a 16-bit PNG of depth times `scale`; and the grey picture."""
    import numpy
    from PIL import Image

    depth = prediction["predicted_depth"]
    prediction["depth"].save(Path(folder) / f"{name}-grey.png")
    found: dict[str, Json] = {"depth": f"{name}-grey.png"}
    if kind == "npy":
        numpy.save(Path(folder) / f"{name}.npy", depth)
        return {"predicted_depth": f"{name}.npy", **found}
    numbers = (depth.astype(numpy.float64) * scale).round().clip(0, 65535).astype(numpy.uint16)
    Image.fromarray(numbers).save(Path(folder) / f"{name}.png")
    return {"predicted_depth": f"{name}.png", "depth_scale": scale, **found}


def beside(image: Image, maps: Sequence[numpy.ndarray], most: float) -> Image:
    """The picture and its depth maps side by side: near is bright, no depth is black, `most` is dark blue."""
    import numpy
    from PIL import Image as pil

    big = _image.enlarged(image, 200)
    canvas = pil.new("RGB", ((big.width + 8) * (len(maps) + 1) - 8, big.height), "white")
    canvas.paste(big, (0, 0))
    for place, depth in enumerate(maps, 1):
        share = numpy.clip(1 - depth / max(most, 1e-6), 0, 1)[..., None]
        colours = numpy.where(share > 0.5, 2 * share - 1, 0) * [0, 230, 130] + numpy.minimum(2 * share, 1) * [225, 0, 0]
        colours = colours + [30, 20, 90] * (1 - share)
        colours = numpy.where(depth[..., None] > 0, colours, 0)
        layer = pil.fromarray(colours.clip(0, 255).astype(numpy.uint8))
        canvas.paste(layer.resize(big.size, pil.Resampling.NEAREST), (place * (big.width + 8), 0))
    return canvas
