"""Statistics that image tasks learn from training rows: range of deep pixels, mean and deviation, median size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from topwork import DataError, Row, TopworkError
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import Reading, may_be_deep, open_image, read_pixels


def learn_pixel_range(rows: Iterable[Row], most: int = 1000) -> tuple[float, float] | None:
    """Learn the smallest and largest value of images deeper than 8 bits; None where there are none.

    Args:
        rows: training rows.
        most: rows that are looked at, at even distances.
    """
    import numpy

    low, high = math.inf, -math.inf
    for _, row in spread_rows(rows, most):
        try:
            if not may_be_deep(row.get("image")):
                continue
            pixels = read_pixels(row["image"])
        except Exception:  # reading the row for training refuses it, or skips and counts it
            continue
        if isinstance(pixels, numpy.ndarray) and numpy.isfinite(pixels).all():
            low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
    if low > high:
        return None
    return (low, high) if low < high else (low, low + 1)


def learn_statistics(
    rows: Iterable[Row], reading: Reading, most: int = 1000
) -> tuple[list[float], list[float], int, int]:
    """Learn mean and standard deviation of each channel (pixels in 0..1), and the median height and width.

    Images that cannot be read are left out: whether such a row is an error or skipped is decided when it is used.

    Args:
        rows: training rows.
        reading: how their images are read.
        most: rows that are read, at even distances.

    Raises:
        DataError: none can be read.
    """
    import numpy

    counts: Any = 0
    sizes = []
    unreadable: DataError | None = None
    for index, row in spread_rows(rows, most):
        try:
            image = open_image(row.get("image"), index, "image", reading)
        except DataError as error:
            unreadable = unreadable or error
            continue
        sizes.append(size_of(row["image"]) or image.size)
        counts = counts + numpy.array(image.histogram(), dtype=numpy.int64).reshape(-1, 256)
    if not sizes and unreadable is not None:
        raise unreadable
    if not sizes:
        raise TopworkError("there are no rows to learn the image statistics from", hint="give training rows")
    values, pixels = numpy.arange(256) / 255, counts.sum(1)
    mean = (counts * values).sum(1) / pixels
    deviation = numpy.sqrt(numpy.maximum((counts * values**2).sum(1) / pixels - mean**2, 1e-6))
    width, height = (int(value) for value in numpy.median(numpy.array(sizes), axis=0))
    return [round(float(v), 6) for v in mean], [round(float(v), 6) for v in deviation], height, width


def few_levels(rows: Iterable[Row], reading: Reading, most: int = 50) -> int | None:
    """Return the median number of grey levels of scaled images deeper than 8 bits where it is below 16; else None."""
    import numpy

    levels = []
    for index, row in spread_rows(rows, most):
        try:
            if may_be_deep(row.get("image")):
                image = open_image(row["image"], index, "image", replace(reading, mode="L"))
                levels.append(sum(count > 0 for count in image.histogram()))
        except Exception:  # reading the row for training refuses it, or skips and counts it
            continue
    median = float(numpy.median(levels)) if levels else math.inf
    return int(median) if median < 16 else None


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
