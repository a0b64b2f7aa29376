"""Drawings of segmentation: truth and prediction laid over the image, side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from topwork import Picture
from topwork_tasks._vision.images import magnified
from topwork_tasks.image_segmentation.metrics import match_segments

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

    from topwork_tasks.image_segmentation.masks import Segments
    from topwork_tasks.image_segmentation.outputs import Segmentation


def draw_prediction(image: Image, prediction: Segmentation, kind: str) -> Picture:
    """Draw a prediction without a truth."""
    shown = prediction.map if kind == "semantic" else prediction.map.astype(int) - 1
    return Picture(caption=f"predicted {_labels_of(prediction)}", image=overlay(image, [shown]))


def draw_semantic(image: Image, prediction: Segmentation, truth: numpy.ndarray, ignored: int) -> Picture:
    """Draw truth and prediction; badness is the share of wrong pixels, those that do not count stay clear."""
    valid = truth != ignored
    wrong = float((truth != prediction.map)[valid].mean()) if valid.any() else 0.0
    caption = f"{wrong:.1%} of the pixels are wrong (left the truth, right the prediction: {_labels_of(prediction)})"
    facts, maps = {"wrong pixels": wrong}, [truth * valid - (~valid).astype(int), prediction.map]
    return Picture(caption, wrong, overlay(image, maps), facts=facts, measure="share of wrong pixels")


def draw_segments(image: Image, prediction: Segmentation, truth: Segments, names: Sequence[str]) -> Picture:
    """Draw truth and prediction; badness is the number of missed and superfluous segments."""
    shown = [list(names).index(entry["label"]) for entry in prediction]
    hits, extra, missed = match_segments(truth, prediction.map, shown)
    caption = f"found {len(hits)} of {len(hits) + len(missed)} segments, {len(extra)} more (left the truth)"
    maps = [truth.ids.astype(int) - 1, prediction.map.astype(int) - 1]
    facts = {"right": len(hits), "missed": len(missed), "superfluous": len(extra)}
    wrong, measure = float(len(missed) + len(extra)), "number of missed and superfluous segments"
    return Picture(caption, wrong, overlay(image, maps), facts=facts, measure=measure)


def _labels_of(prediction: Segmentation) -> str:
    return ", ".join(dict.fromkeys(entry["label"] for entry in prediction)) or "nothing"


def overlay(image: Image, maps: Sequence[numpy.ndarray]) -> Image:
    """Return the image once for each map, side by side, the map's colours laid over it; numbers below 0 stay clear."""
    from PIL import Image as pil

    large = magnified(image, 240)
    canvas = pil.new("RGB", (len(maps) * large.width + 8 * (len(maps) - 1), large.height), "white")
    for index, numbers in enumerate(maps):
        canvas.paste(_coloured(large, numbers), (index * (large.width + 8), 0))
    return canvas


def _coloured(image: Image, numbers: numpy.ndarray) -> Image:
    import numpy
    from PIL import Image as pil

    colours = numpy.array([[0, 0, 0], *(colour(index) for index in range(max(1, int(numbers.max()) + 1)))])
    layer = pil.fromarray(colours[numpy.maximum(numbers, -1).astype(int) + 1].astype("uint8"))
    strength = pil.fromarray(numpy.where(numbers >= 0, 140, 0).astype("uint8"))
    nearest = pil.Resampling.NEAREST
    return pil.composite(layer.resize(image.size, nearest), image, strength.resize(image.size, nearest))


def colour(index: int) -> tuple[int, int, int]:
    """Return a colour far from those of neighbouring indices: steps of the golden angle round the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803398875 % 1, 0.75, 1 - 0.25 * (index // 8 % 3))
    return round(255 * red), round(255 * green), round(255 * blue)
