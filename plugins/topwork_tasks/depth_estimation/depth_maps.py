"""Depth maps: reading, losses, and predictions of the original image's size.

Inside topwork depth is in the unit of the rows after `depth_scale`, float32 [height, width]; 0 marks a pixel without
depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, Json, TopworkError
from topwork_tasks._vision.images import magnified
from topwork_tasks._vision.maps import open_map
from topwork_tasks._vision.statistics import spread_rows
from topwork_tasks.depth_estimation.exr import is_exr, read_exr

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL.Image import Image
    from torch import nn

Loss = Literal["silog", "l1", "scale_shift_invariant"]
_LEAST = 1e-6
#: a median beyond this is no distance in metres of a scene that a camera sees
_FAR = 300
#: share of the pixels from which the largest value may mark holes
_MARKED = 0.05
#: share of the pixels without depth in the maps of a laser scanner
_SPARSE = 0.6


def open_depth(
    value: Any,
    index: int | None,
    size: tuple[int, int] | None,
    scale: float,
    cap: float | None,
    holes: Sequence[float] = (),
    orientation: Callable[[], int] = lambda: 1,
) -> numpy.ndarray:
    """Open depth as float32 [height, width] in the rows' unit; 0 where there is none.

    There is none where a value is zero, below zero, NaN, infinite or more than `cap`.

    Args:
        value: a PIL image (L, I, I;16 or F), {bytes, path}, a path (.npy, .exr too), bytes, an array or nested lists.
        index: index of the row, for messages.
        size: width and height of the image.
        scale: the value is divided by it: 1000 for millimetres in a 16-bit PNG.
        cap: largest depth, after scaling; None for no bound.
        holes: numbers before scaling that mean no depth.
        orientation: see `open_map`.

    Raises:
        DataError: empty, not readable, a colour image, or of another size than the image.
        UsageError: an EXR file, and no package that reads it.
    """
    import numpy

    hint = "give one number a pixel: a grey image, an array, or a .npy file"
    array = open_map(value, index, "depth", "depth map", hint, _numbers, size, orientation, _read_exr)
    depth = array.astype(numpy.float64) / scale
    with numpy.errstate(invalid="ignore"):
        valid = ~numpy.isin(array, holes) & numpy.isfinite(depth) & (depth > 0) & (depth <= (cap or numpy.inf))
    return numpy.where(valid, depth, 0).astype(numpy.float32)


def _read_exr(value: Any) -> numpy.ndarray | None:
    return read_exr(value) if is_exr(value) else None


def _numbers(array: numpy.ndarray) -> numpy.ndarray:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"an array of {array.dtype} is no depth map")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    if array.ndim != 2:
        raise ValueError(f"it has {array.ndim} dimensions, not height and width")
    return array


def scale_of(row: Mapping[str, Any], scale: float | None, index: int | None = None) -> float:
    """Return what a row's numbers are divided by: the option `depth_scale`, else what the row declares, else 1.

    Raises:
        DataError: the row's scale is no positive number.
    """
    if scale is not None:
        return scale
    declared = row.get("depth_scale")
    if declared is None:
        return 1.0
    if isinstance(declared, bool) or not isinstance(declared, int | float) or not 0 < declared < math.inf:
        hint = "write what the numbers are divided by, such as 1000 for millimetres"
        raise DataError(f"{declared!r} is no positive number", row=index, column="depth_scale", hint=hint)
    return float(declared)


def has_bad_scale(row: Mapping[str, Any], scale: float | None) -> bool:
    """Return whether `scale_of` refuses a row."""
    try:
        scale_of(row, scale)
    except DataError:
        return True
    return False


def typical_depth(rows: Any, scale: float | None, cap: float | None, holes: Sequence[float] = ()) -> float:
    """Return the median depth of some rows, where a random task head begins; 1 without rows."""
    import numpy

    medians = []
    for index, row in spread_rows(rows, 50) if rows is not None else ():
        depth = open_depth(row.get("depth"), index, None, scale_of(row, scale, index), cap, holes)
        if (depth > 0).any():
            medians.append(float(numpy.median(depth[depth > 0])))
    return round(float(numpy.median(medians)), 6) if medians else 1.0


def depth_doubts(rows: Iterable[Mapping[str, Any]], scale: float | None, holes: Sequence[float]) -> list[str]:
    """Return doubts about depth, one sentence each: units that are no metres, a largest number that marks holes.

    Args:
        rows: some rows.
        scale: the option `depth_scale`.
        holes: the option `hole_values`.
    """
    import numpy

    medians, shares, empty, whole = [], [], [], True
    for index, row in enumerate(rows):
        try:
            array = open_map(row.get("depth"), index, "depth", "depth map", "", _numbers, read=_read_exr)
            divisor = scale_of(row, scale, index)
        except TopworkError:
            continue  # reading the row for training refuses it, or skips and counts it
        known = array[numpy.isfinite(array) & (array > 0) & ~numpy.isin(array, holes)]
        if not known.size:
            continue
        largest = known == known.max()
        shares.append(float(largest.mean()))
        marked = shares[-1] > _MARKED and not largest.all()
        medians.append(float(numpy.median(known[~largest] if marked else known)) / divisor)
        empty.append(1 - known.size / array.size)
        whole = whole and array.dtype.kind in "iu"
    doubts = []
    if medians and (median := float(numpy.median(medians))) > _FAR:
        doubts.append(_scale_doubt(median, whole and scale is None, float(numpy.median(empty)) > _SPARSE))
    if shares and float(numpy.median(shares)) > _MARKED:
        doubts.append(
            f"more than {_MARKED:.0%} of the pixels hold exactly the largest value of their map: a mark for holes? "
            "`hole_values` leaves it out"
        )
    return doubts


def _scale_doubt(median: float, whole: bool, sparse: bool) -> str:
    """Return the doubt that depth is in metres, with the scales of well-known data sets, the likeliest first."""
    if not whole:
        return f"the median depth is {median:.4g}: millimetres? `depth_scale: 1000` makes metres of them"
    # maps of a laser scanner are empty between its points, those of a camera are not
    known = {"millimetres": 1000, "1/5000 m, as TUM": 5000, "1/256 m, as KITTI": 256}
    likely = dict(reversed(known.items())) if sparse else known
    figures = "; ".join(
        f"{name}: `depth_scale: {scale}`, a median of {median / scale:.3g} m" for name, scale in likely.items()
    )
    return f"the median depth is {median:.4g}, which cannot be metres. {figures}"


def resize_depth(depth: numpy.ndarray, size: Sequence[int]) -> torch.Tensor:
    """Resize to `size` (height, width) by nearest pixels: between two depths there is none."""
    import torch
    from torch.nn import functional

    tensor = torch.from_numpy(depth)
    if tuple(tensor.shape) == tuple(size):
        return tensor
    return functional.interpolate(tensor[None, None], size=tuple(size), mode="nearest-exact")[0, 0]


# ---------------------------------------------------------------- losses


def depth_losses(predicted: torch.Tensor, truth: torch.Tensor, kind: Loss, share: float) -> torch.Tensor:
    """Return the loss of each item over its valid pixels, [items]; 0 where it has none.

    silog: sqrt(mean(d^2) - share * mean(d)^2) of d = log truth - log prediction (Eigen et al. 2014, arXiv 1406.2283).
    l1: mean of the absolute differences.
    scale_shift_invariant: both maps less their median and divided by their mean distance from it, then l1 (Ranftl et
    al. 2019, arXiv 1907.01341, equations 5 and 6).

    Args:
        predicted: [items, h, w], resized to the truth's size.
        truth: [items, height, width], 0 where it is not known.
        kind: which of the three.
        share: the option `silog_share`, for silog.
    """
    import torch
    from torch.nn import functional

    predicted, truth = predicted.float(), truth.float()
    if predicted.shape[-2:] != truth.shape[-2:]:
        predicted = functional.interpolate(
            predicted[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
    losses = []
    for depth, target in zip(predicted, truth):
        valid = target > 0
        if not valid.any():
            losses.append(depth.sum() * 0.0)
            continue
        depth, target = depth[valid], target[valid]
        if kind == "silog":
            difference = torch.log(target) - torch.log(depth + _LEAST)
            losses.append((difference.square().mean() - share * difference.mean().square()).clamp(min=1e-12).sqrt())
        elif kind == "l1":
            losses.append((depth - target).abs().mean())
        else:
            losses.append((_normal(depth) - _normal(target)).abs().mean())
    return torch.stack(losses)


def _normal(depth: torch.Tensor) -> torch.Tensor:
    centred = depth - depth.median()
    return centred / centred.abs().mean().clamp(min=_LEAST)


def start_at_depth(model: nn.Module, typical: float) -> None:
    """Set the bias of a random depth head that ends in a ReLU so that it begins at a typical depth.

    DPT's head begins at 0, where it has no gradient.
    """
    from torch import nn

    config: Any = model.config
    if config.model_type == "dpt" or getattr(config, "depth_estimation_type", "") == "relative":
        last = [layer for layer in model.head.modules() if isinstance(layer, nn.Conv2d) and layer.out_channels == 1]  # type: ignore[union-attr]
        assert last[-1].bias is not None
        nn.init.constant_(last[-1].bias, typical / (getattr(config, "max_depth", None) or 1.0))


# ---------------------------------------------------------------- predictions


def to_image_size(depth: torch.Tensor, size: tuple[int, int]) -> numpy.ndarray:
    """Return float32 [height, width] of the image's size (width, height); values below 0 become 0.

    By bicubic interpolation, as the Hub's pipeline does it.
    """
    from torch.nn import functional

    whole = functional.interpolate(
        depth[None, None].float(), size=(size[1], size[0]), mode="bicubic", align_corners=False
    )
    return whole[0, 0].clamp(min=0).cpu().numpy()


class Depth(dict):
    """Prediction: `{"predicted_depth": float32 [height, width], "depth": PIL image (L)}`, the nearest pixel black."""

    def __init__(self, predicted: numpy.ndarray) -> None:
        super().__init__(predicted_depth=predicted, depth=_grey(predicted))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self["depth"].size

    def __repr__(self) -> str:
        """Return the same text for two predictions that differ by rounding only."""
        depth = self["predicted_depth"]
        figures = f"{depth.min():.4g} to {depth.max():.4g}, mean {depth.mean():.4g}"
        return f"{{'predicted_depth': <{depth.shape[1]}x{depth.shape[0]}, {figures}>}}"


def _grey(depth: numpy.ndarray) -> Image:
    from PIL import Image

    span = float(depth.max() - depth.min())
    shares = (depth - depth.min()) / span if span > 0 else depth * 0
    return Image.fromarray((shares * 255).astype("uint8"))


def write_depth(prediction: Mapping[str, Any], folder: Path, name: str, kind: str, scale: float) -> Json:
    """Write the map as a float32 .npy file, or as a 16-bit PNG of depth times `scale`; and the grey image."""
    import numpy
    from PIL import Image

    depth = prediction["predicted_depth"]
    prediction["depth"].save(Path(folder) / f"{name}-grey.png")
    files: dict[str, Json] = {"depth": f"{name}-grey.png"}
    if kind == "npy":
        numpy.save(Path(folder) / f"{name}.npy", depth)
        return {"predicted_depth": f"{name}.npy", **files}
    numbers = (depth.astype(numpy.float64) * scale).round().clip(0, 65535).astype(numpy.uint16)
    Image.fromarray(numbers).save(Path(folder) / f"{name}.png")
    return {"predicted_depth": f"{name}.png", "depth_scale": scale, **files}


def draw_depths(image: Image, maps: Sequence[numpy.ndarray], most: float) -> Image:
    """Return the image and its depth maps side by side: near is bright, no depth is black, `most` is dark blue."""
    import numpy
    from PIL import Image as pil

    large = magnified(image, 200)
    canvas = pil.new("RGB", ((large.width + 8) * (len(maps) + 1) - 8, large.height), "white")
    canvas.paste(large, (0, 0))
    for index, depth in enumerate(maps, 1):
        share = numpy.clip(1 - depth / max(most, 1e-6), 0, 1)[..., None]
        colours = numpy.where(share > 0.5, 2 * share - 1, 0) * [0, 230, 130] + numpy.minimum(2 * share, 1) * [225, 0, 0]
        colours = colours + [30, 20, 90] * (1 - share)
        colours = numpy.where(depth[..., None] > 0, colours, 0)
        layer = pil.fromarray(colours.clip(0, 255).astype(numpy.uint8))
        canvas.paste(layer.resize(large.size, pil.Resampling.NEAREST), (index * (large.width + 8), 0))
    return canvas
