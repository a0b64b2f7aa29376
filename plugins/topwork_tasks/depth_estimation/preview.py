"""View of depth rows before any model exists: depth beside the image, its range, units that look wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import topwork as tw
from topwork_tasks._vision.preview import ImageView, decoded
from topwork_tasks.depth_estimation.depth_maps import draw_depths, open_depth

if TYPE_CHECKING:
    from PIL.Image import Image

#: a median beyond this is no distance in metres of a scene that a camera sees
FAR = 500.0


class DepthView(ImageView):
    """Depth as the task reads it."""

    def draw(self, image: Image, row: tw.Row, options: Any) -> tuple[Image, str]:
        """Return the image and its depth, near bright."""
        depth = open_depth(row.get("depth"), None, image.size, options.depth_scale, options.max_depth)
        valid = depth[depth > 0]
        if not len(valid):
            return super().draw(image, row, options)[0], "no pixel has a depth"
        caption = f"depth from {valid.min():.4g} to {valid.max():.4g}, {len(valid) / depth.size:.0%} of the pixels"
        return draw_depths(image, [depth], float(depth.max())), caption

    def doubts(self, rows: Sequence[tw.Row], options: Any) -> list[str]:
        """Name depth that looks like millimetres, and a largest value that looks like a mark for holes."""
        medians, tops = [], []
        for _, row in decoded(rows):
            figures = _figures(row, options)
            if figures:
                medians.append(figures["median"])
                tops.append(figures["share of the maximum"])
        if not medians:
            return []
        doubts = []
        median = sorted(medians)[len(medians) // 2]
        if median > FAR:
            doubts.append(f"the median depth is {median:.4g}: millimetres? `depth_scale: 1000` makes metres of them")
        if sorted(tops)[len(tops) // 2] > 0.05:
            doubts.append(
                "more than 5 % of the pixels hold exactly the largest value of their map: a mark for holes?"
                " `max_depth` leaves it out"
            )
        return doubts


def _figures(row: tw.Row, options: Any) -> Mapping[str, float]:
    import numpy

    try:
        depth = open_depth(row.get("depth"), None, None, options.depth_scale, options.max_depth)
    except tw.DataError:
        return {}
    valid = depth[depth > 0]
    if not len(valid):
        return {}
    return {"median": float(numpy.median(valid)), "share of the maximum": float((valid == valid.max()).mean())}
