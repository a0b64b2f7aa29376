"""Scenes of real digits with exact boxes and masks: for detection and segmentation there is no small real set in any
package, and in a composed picture the truth is known to the pixel.

A scene of the split "train" holds only training digits, one of "test" only test digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SIZE = 64
COUNTS = {"train": 2000, "test": 200}
INK = 96  # of 255: a pixel belongs to the digit when its ink is at least this strong


def scenes(split: str, code: str = "") -> Iterator[dict[str, Any]]:
    """Rows: `image` (L, 64 x 64), `objects` {bbox: [[x, y, width, height]] in pixels, category: [digit]}, `mask` (L:
    0 background, 1 + digit) and `instances` (L: 0 background, else the number of the object, from 1).

    `code` is not used; it is part of the cache key.
    """
    import numpy
    from PIL import Image

    from topwork_bases.samples.digits import digit_arrays

    pictures, labels = digit_arrays(split)
    random = numpy.random.default_rng(1 if split == "test" else 0)
    for _ in range(COUNTS[split]):
        scene = _background(random)
        mask = numpy.zeros((SIZE, SIZE), numpy.uint8)
        instances = numpy.zeros((SIZE, SIZE), numpy.uint8)
        boxes: list[list[float]] = []
        categories: list[int] = []
        for index in random.integers(0, len(labels), random.integers(1, 4)):
            side = int(random.integers(16, 27))
            position = _free_place(random, instances, side)
            if position is None:
                continue
            ink = numpy.asarray(Image.fromarray(pictures[index]).resize((side, side), Image.Resampling.BICUBIC))
            box = _draw(scene, ink, position, random.uniform(0.7, 1.0))
            shape = ink >= INK
            top, left = position
            instances[top : top + side, left : left + side][shape] = len(boxes) + 1
            mask[top : top + side, left : left + side][shape] = 1 + labels[index]
            boxes.append(box)
            categories.append(int(labels[index]))
        yield {
            "image": Image.fromarray(scene.round().astype(numpy.uint8)),
            "objects": {"bbox": boxes, "category": categories},
            "mask": Image.fromarray(mask),
            "instances": Image.fromarray(instances),
        }


def _background(random: Any) -> Any:
    """A grey slope with noise, [SIZE, SIZE] float."""
    import numpy

    slope = numpy.add.outer(
        numpy.linspace(0, random.uniform(-20, 20), SIZE), numpy.linspace(0, random.uniform(-20, 20), SIZE)
    )
    return (random.uniform(30, 60) + slope + random.normal(0, 4, (SIZE, SIZE))).clip(0, 110)


def _free_place(random: Any, instances: Any, side: int) -> tuple[int, int] | None:
    """Top and left of a square without ink, or None when a few tries found none."""
    for _ in range(20):
        top, left = (int(value) for value in random.integers(0, SIZE - side + 1, 2))
        if not instances[top : top + side, left : left + side].any():
            return top, left
    return None


def _draw(scene: Any, ink: Any, position: tuple[int, int], strength: float) -> list[float]:
    """Lay the ink over the scene; answers the tight box [x, y, width, height] of its mask."""
    import numpy

    top, left = position
    side = len(ink)
    weight = ink / 255 * strength
    region = scene[top : top + side, left : left + side]
    region[:] = region * (1 - weight) + 255 * weight
    down, across = numpy.nonzero(ink >= INK)
    width, height = across.max() - across.min() + 1, down.max() - down.min() + 1
    return [float(left + across.min()), float(top + down.min()), float(width), float(height)]
