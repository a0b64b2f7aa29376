"""Example rows of object-detection, for documentation and tests."""

from __future__ import annotations

from topwork import Row


def object_examples() -> list[Row]:
    """Return discs, squares and bars on a dark ground; one image is empty."""
    from PIL import Image, ImageDraw

    rows: list[Row] = []
    for index in range(9):
        image = Image.new("RGB", (64, 64), (10 * index, 30, 50))
        pen = ImageDraw.Draw(image)
        boxes, categories = [], []
        for shape_index in range(min(index % 4, 2)):
            shape = ("disc", "square", "bar")[(index + shape_index) % 3]
            left, top = 4 + 30 * shape_index + index % 3, 6 + 3 * index
            width, height = (24, 10) if shape == "bar" else (20, 20)
            corners = (left, top, left + width - 1, top + height - 1)
            (pen.ellipse if shape == "disc" else pen.rectangle)(corners, fill=("white", "red", "yellow")[index % 3])
            boxes.append([float(left), float(top), float(width), float(height)])
            categories.append(shape)
        rows.append({"image": image, "objects": {"bbox": boxes, "category": categories}})
    return rows
