"""What depth-estimation learns from rows when its base has none of it: an image processor, and where to begin."""

from __future__ import annotations

from typing import Any

from topwork import Base, UsageError
from topwork_tasks._vision import images as _image
from topwork_tasks.depth_estimation.depth_maps import open_depth


def learned_processor(rows: Any, base: Base, image_size: int | None) -> Any:
    """Resizes and normalises by the rows' own mean and deviation; one that plain transformers' pipeline can use."""
    from transformers import DPTImageProcessor

    if rows is None:
        raise UsageError(
            "the base has no image processor and there are no training rows to learn one from",
            place="task depth-estimation",
            hint="give training rows, or `base.processor`",
        )
    mean, deviation, height, width = _image.learn_statistics(rows, _image.mode_of(base.config))
    if image_size is not None:
        height = width = image_size
    else:
        height, width = _image.config_size(base.config) or (-(-height // 32) * 32, -(-width // 32) * 32)
    return DPTImageProcessor(
        size={"height": height, "width": width}, image_mean=mean, image_std=deviation, do_normalize=True
    )


def typical_depth(rows: Any, scale: float, cap: float | None) -> float:
    """The median depth of some rows: where a random task head begins. 1 without rows."""
    import numpy

    found = []
    for number, row in _image._spread(rows, 50) if rows is not None else ():
        depth = open_depth(row.get("depth"), number, None, scale, cap)
        if (depth > 0).any():
            found.append(float(numpy.median(depth[depth > 0])))
    return round(float(numpy.median(found)), 6) if found else 1.0
