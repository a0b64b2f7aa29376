"""Pictures of segmentation: the truth and the prediction laid over the picture, side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from topwork import Picture
from topwork_tasks._vision import images as _image

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

    from topwork_tasks.image_segmentation.predictions import Segmentation
    from topwork_tasks.image_segmentation.rows import Segments


def alone(image: Image, prediction: Segmentation, kind: str) -> Picture:
    """A prediction without a truth."""
    shown = prediction.map if kind == "semantic" else prediction.map.astype(int) - 1
    return Picture(caption=f"predicted {_found(prediction)}", image=beside(image, [shown]))


def semantic(image: Image, prediction: Segmentation, truth: numpy.ndarray, ignored: int) -> Picture:
    """Badness is the share of wrong pixels; those that do not count stay clear in the truth."""
    valid = truth != ignored
    wrong = float((truth != prediction.map)[valid].mean()) if valid.any() else 0.0
    caption = f"{wrong:.1%} of the pixels are wrong (left the truth, right the prediction: {_found(prediction)})"
    return Picture(caption, wrong, beside(image, [truth * valid - (~valid).astype(int), prediction.map]))


def segments(image: Image, prediction: Segmentation, truth: Segments, names: Sequence[str]) -> Picture:
    """Badness is the number of missed and superfluous segments."""
    from topwork_tasks.image_segmentation.panoptic import matched

    shown = [list(names).index(entry["label"]) for entry in prediction]
    hits, extra, missed = matched(truth, prediction.map, shown)
    caption = f"found {len(hits)} of {len(hits) + len(missed)} segments, {len(extra)} more (left the truth)"
    maps = [truth.ids.astype(int) - 1, prediction.map.astype(int) - 1]
    return Picture(caption, float(len(missed) + len(extra)), beside(image, maps))


def _found(prediction: Segmentation) -> str:
    return ", ".join(dict.fromkeys(entry["label"] for entry in prediction)) or "nothing"


def beside(image: Image, maps: Sequence[numpy.ndarray]) -> Image:
    """The picture once for each map, side by side, the map's colours laid over it; numbers below 0 stay clear."""
    from PIL import Image as pil

    big = _image.enlarged(image, 240)
    canvas = pil.new("RGB", (len(maps) * big.width + 8 * (len(maps) - 1), big.height), "white")
    for place, numbers in enumerate(maps):
        canvas.paste(_coloured(big, numbers), (place * (big.width + 8), 0))
    return canvas


def _coloured(image: Image, numbers: numpy.ndarray) -> Image:
    import numpy
    from PIL import Image as pil

    colours = numpy.array([[0, 0, 0], *(colour(number) for number in range(max(1, int(numbers.max()) + 1)))])
    layer = pil.fromarray(colours[numpy.maximum(numbers, -1).astype(int) + 1].astype("uint8"))
    strength = pil.fromarray(numpy.where(numbers >= 0, 140, 0).astype("uint8"))
    nearest = pil.Resampling.NEAREST
    return pil.composite(layer.resize(image.size, nearest), image, strength.resize(image.size, nearest))


def colour(number: int) -> tuple[int, int, int]:
    """Colours that lie far apart for neighbouring numbers: steps of the golden angle round the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803398875 % 1, 0.75, 1 - 0.25 * (number // 8 % 3))
    return round(255 * red), round(255 * green), round(255 * blue)
