"""Example rows of depth-estimation, for documentation and tests."""

from __future__ import annotations

from topwork import Row


def depth_examples() -> list[Row]:
    """Return bright squares on a dark wall, the larger, the nearer; two pixels have no depth."""
    import numpy
    from PIL import Image

    rows: list[Row] = []
    for index in range(8):
        pixels = numpy.full((40, 48, 3), (30, 40, 60), numpy.uint8)
        depth = numpy.full((40, 48), 5.0 + index % 3, numpy.float32)
        side, left = 10 + 3 * (index % 5), 2 + 2 * index
        pixels[6 : 6 + side, left : left + side] = (90 + 15 * index, 200, 120)
        depth[6 : 6 + side, left : left + side] = 30.0 / side
        depth[0, :2] = (0.0, numpy.nan)
        rows.append({"image": Image.fromarray(pixels), "depth": depth})
    return rows
