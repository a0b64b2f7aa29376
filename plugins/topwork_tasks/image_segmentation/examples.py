"""Rows for documentation and tests: discs, squares and bars on a dark ground, with masks and instances."""

from __future__ import annotations

from topwork import Row


def example_rows() -> list[Row]:
    """`mask`: 0 ground, 1 disc, 2 square, 3 bar; `instances` numbers the shapes; one picture is empty."""
    from PIL import Image, ImageDraw

    rows: list[Row] = []
    for number in range(8):
        image = Image.new("RGB", (48, 40), (20 + 5 * number, 30, 40))
        mask, instances = Image.new("L", image.size, 0), Image.new("L", image.size, 0)
        for place in range(number % 3 if number != 3 else 2):
            kind = (number + place) % 3
            left, top = 3 + 22 * place, 4 + (3 * number) % 12
            box = (left, top, left + 17, top + (17 if kind < 2 else 7))
            for canvas, fill in ((image, ("red", "lime", "yellow")[kind]), (mask, kind + 1), (instances, place + 1)):
                pen = ImageDraw.Draw(canvas)
                (pen.ellipse if kind == 0 else pen.rectangle)(box, fill=fill)
        rows.append({"image": image, "mask": mask, "instances": instances})
    return rows
