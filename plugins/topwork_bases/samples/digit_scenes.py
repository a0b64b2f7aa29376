"""Scenes of real digits with exact boxes and masks, for detection and segmentation.

No package brings a small real data set for these, and in a composed image the truth is known to the pixel. A scene of
the split "train" holds only training digits, a scene of "test" only test digits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from topwork_bases.samples import digits
from topwork_bases.samples.generated import generated_rows

SIZE = 64
COUNTS = {"train": 2000, "test": 200}
INK = 96  # of 255: a pixel belongs to the digit when its ink is at least this strong


def digit_scenes_dataset(split: str) -> Any:
    """Return the scenes of a split, "train" or "test", as a `datasets.Dataset`; the columns are those of `scenes`."""
    import datasets

    digit = datasets.ClassLabel(names=[str(value) for value in range(10)])
    box = datasets.List(datasets.Value("float32"), length=4)
    features = {
        "image": datasets.Image(),
        "objects": {"bbox": datasets.List(box), "category": datasets.List(digit)},
        "mask": datasets.Image(),
        "instances": datasets.Image(),
    }
    return generated_rows(scenes, split, features, [sys.modules[__name__], digits])


def scenes(split: str, code: str = "") -> Iterator[dict[str, Any]]:
    """Yield the scenes of a split.

    Args:
        split: "train" or "test".
        code: not used; part of the key of the cache.

    Yields:
        `image` (L, 64 x 64), `objects` {bbox: [[x, y, width, height]] in pixels, category: [digit]}, `mask` (L: 0 for
        background, else 1 + digit) and `instances` (L: 0 for background, else the object's index plus 1).
    """
    import numpy
    from PIL import Image

    images, labels = digits.digit_arrays(split)
    random = numpy.random.default_rng(1 if split == "test" else 0)
    for _ in range(COUNTS[split]):
        scene = _background(random)
        mask = numpy.zeros((SIZE, SIZE), numpy.uint8)
        instances = numpy.zeros((SIZE, SIZE), numpy.uint8)
        boxes: list[list[float]] = []
        categories: list[int] = []
        for index in random.integers(0, len(labels), random.integers(1, 4)):
            side = int(random.integers(16, 27))
            position = _free_square(random, instances, side)
            if position is None:
                continue
            ink = numpy.asarray(Image.fromarray(images[index]).resize((side, side), Image.Resampling.BICUBIC))
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
    """Return a grey slope with noise, [SIZE, SIZE] float."""
    import numpy

    slope = numpy.add.outer(
        numpy.linspace(0, random.uniform(-20, 20), SIZE), numpy.linspace(0, random.uniform(-20, 20), SIZE)
    )
    return (random.uniform(30, 60) + slope + random.normal(0, 4, (SIZE, SIZE))).clip(0, 110)


def _free_square(random: Any, instances: Any, side: int) -> tuple[int, int] | None:
    """Return top and left of a square without ink; None when none of 20 draws is free."""
    for _ in range(20):
        top, left = (int(value) for value in random.integers(0, SIZE - side + 1, 2))
        if not instances[top : top + side, left : left + side].any():
            return top, left
    return None


def _draw(scene: Any, ink: Any, position: tuple[int, int], strength: float) -> list[float]:
    """Lay the ink over the scene and return the tight box [x, y, width, height] of its mask."""
    import numpy

    top, left = position
    side = len(ink)
    weight = ink / 255 * strength
    region = scene[top : top + side, left : left + side]
    region[:] = region * (1 - weight) + 255 * weight
    down, across = numpy.nonzero(ink >= INK)
    width, height = across.max() - across.min() + 1, down.max() - down.min() + 1
    return [float(left + across.min()), float(top + down.min()), float(width), float(height)]
