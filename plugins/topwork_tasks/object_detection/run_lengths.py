"""Masks of COCO as run lengths, made of polygons or taken as they are written, and the boxes around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def run_lengths(written: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """Return {size, counts} of a mask, run lengths or polygons; None without one (a polygon has three points or more).

    Args:
        written: the entry `segmentation` of an annotation.
        size: width and height of the image.

    Raises:
        ValueError, KeyError, TypeError, IndexError: it is neither.
    """
    from faster_coco_eval.core import mask as coco

    width, height = size
    if isinstance(written, Mapping):
        size_of_mask, counts = [int(value) for value in written["size"]], written["counts"]
        if isinstance(counts, list):
            counts = coco.frPyObjects({"size": size_of_mask, "counts": counts}, *size_of_mask)["counts"]
    else:
        polygons = [[float(value) for value in polygon] for polygon in written or ()]
        if not polygons or not all(len(polygon) >= 6 for polygon in polygons):
            return None
        if not all(math.isfinite(value) for polygon in polygons for value in polygon):
            # the library that fills polygons would end the process
            raise ValueError("it has a polygon whose numbers are not finite")
        size_of_mask = [height, width]
        counts = coco.merge(coco.frPyObjects(polygons, height, width))["counts"]
    return {"size": size_of_mask, "counts": counts.decode() if isinstance(counts, bytes) else counts}


def box_of_mask(rle: dict[str, Any] | None, written: Any) -> list[float]:
    """Return x, y, width, height around a mask: of polygons their corners, of run lengths their pixels."""
    from faster_coco_eval.core import mask as coco

    if rle is None or not rle["size"]:
        return [0.0, 0.0, 0.0, 0.0]  # no area: the task refuses or drops it, with its row
    if isinstance(written, Mapping):
        return [float(value) for value in coco.toBbox({**rle, "counts": rle["counts"].encode()})]
    across = [float(value) for polygon in written for value in polygon[::2]]
    down = [float(value) for polygon in written for value in polygon[1::2]]
    return [min(across), min(down), max(across) - min(across), max(down) - min(down)]
