"""View of depth rows before any model exists: depth beside the image, its range, units that look wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import topwork as tw
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.maps import shrink_map
from topwork_tasks._vision.preview import MOST_DECODED, ImageView, spread
from topwork_tasks.depth_estimation.depth_maps import depth_doubts, draw_depths, open_depth, scale_of

if TYPE_CHECKING:
    from PIL.Image import Image


class DepthView(ImageView):
    """Depth as the task reads it."""

    def draw(self, image: Image, row: tw.Row, options: Any) -> tuple[Image, str]:
        """Return the image and its depth, near bright; the image alone where a row has no depth."""
        if row.get("depth") is None:
            return super().draw(image, row, options)
        scale, cap, holes = scale_of(row, options.depth_scale), options.max_depth, options.hole_values
        depth = shrink_map(open_depth(row.get("depth"), None, size_of(row.get("image")), scale, cap, holes), image.size)
        valid = depth[depth > 0]
        if not len(valid):
            return super().draw(image, row, options)[0], "no pixel has a depth"
        caption = f"depth from {valid.min():.4g} to {valid.max():.4g}, {len(valid) / depth.size:.0%} of the pixels"
        return draw_depths(image, [depth], float(depth.max())), caption

    def doubts(self, rows: Sequence[tw.Row], options: Any) -> list[str]:
        """Name depth that looks like millimetres, and a largest value that looks like a mark for holes."""
        chosen = spread(rows, MOST_DECODED)
        doubts = depth_doubts(chosen, options.depth_scale, options.hole_values)
        if empty := sum(_is_empty(row, options) for row in chosen):
            doubts.append(f"{empty} of {len(chosen)} depth maps have no pixel with a depth")
        return doubts


def _is_empty(row: tw.Row, options: Any) -> bool:
    """Return whether a row's depth map can be read and has no depth."""
    try:
        scale, cap, holes = scale_of(row, options.depth_scale), options.max_depth, options.hole_values
        return not (open_depth(row.get("depth"), None, size_of(row.get("image")), scale, cap, holes) > 0).any()
    except tw.DataError:
        return False
