"""Example rows of image-segmentation, for documentation and tests."""

from __future__ import annotations

from topwork import Row


def mask_examples() -> list[Row]:
    """Return discs, squares and bars on a dark ground; one image is empty.

    `mask`: 0 ground, 1 disc, 2 square, 3 bar; `instances` numbers the shapes.
    """
    from PIL import Image, ImageDraw

    rows: list[Row] = []
    for index in range(8):
        image = Image.new("RGB", (48, 40), (20 + 5 * index, 30, 40))
        mask, instances = Image.new("L", image.size, 0), Image.new("L", image.size, 0)
        for shape_index in range(index % 3 if index != 3 else 2):
            kind = (index + shape_index) % 3
            left, top = 3 + 22 * shape_index, 4 + (3 * index) % 12
            box = (left, top, left + 17, top + (17 if kind < 2 else 7))
            layers = ((image, ("red", "lime", "yellow")[kind]), (mask, kind + 1), (instances, shape_index + 1))
            for canvas, fill in layers:
                pen = ImageDraw.Draw(canvas)
                (pen.ellipse if kind == 0 else pen.rectangle)(box, fill=fill)
        rows.append({"image": image, "mask": mask, "instances": instances})
    return rows
