"""Views of image rows before any model exists: sizes from headers, the image with its truth, doubts.

`ImageView` serves every image task; detection, segmentation and depth estimation derive their own from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from topwork import DataError, Picture, Row, RowsView
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import Reading, magnified, open_image
from topwork_tasks._vision.statistics import learn_pixel_range

if TYPE_CHECKING:
    from PIL.Image import Image

#: images smaller than this are enlarged for people
LEAST_SIDE = 240
#: rows whose truth is decoded to look for doubts
MOST_DECODED = 100


class ImageView(RowsView):
    """Width and height of images, and images enlarged for people."""

    def measure(self, row: Row, options: Any) -> Mapping[str, float]:
        """Return width and height of the row's image from its header; nothing where the header does not tell them."""
        size = size_of(row.get("image"))
        return {} if size is None else {"width": float(size[0]), "height": float(size[1])}

    def preview(self, row: Row, options: Any) -> Picture:
        """Render the row's image, with what `draw` lays over it, under its other columns as text."""
        rest = {name: value for name, value in row.items() if name != "image"}
        try:
            drawn, caption = self._drawn(row, options)
        except DataError as error:  # the checks before a run name it with its row
            return Picture(f"cannot be read: {error.cause}")
        return Picture(caption or super().preview(rest, options).caption, image=drawn)

    def check(self, row: Row, options: Any, *, whole: bool) -> None:
        """Refuse a row whose image, or what belongs to it, cannot be read."""
        if whole or size_of(row.get("image")) is None:
            self._drawn(row, options)

    def _drawn(self, row: Row, options: Any) -> tuple[Image, str]:
        pixel_range = options.pixel_range or learn_pixel_range([row])
        reading = Reading(pixel_range=pixel_range, background=options.background)
        return self.draw(open_image(row.get("image"), None, "image", reading), row, options)

    def draw(self, image: Image, row: Row, options: Any) -> tuple[Image, str]:
        """Return the image as people see it and a caption; an empty caption stands for the row's columns as text."""
        return magnified(image, LEAST_SIDE), ""


def spread(rows: Any, most: int) -> Sequence[Row]:
    """Return at most `most` rows, spread evenly where their number is known, else the first."""
    if not hasattr(rows, "__len__"):
        return list(islice(rows, most))
    indices = range(0, len(rows), max(1, len(rows) // most))
    return rows.select(indices) if hasattr(rows, "select") else [rows[index] for index in indices]


def doubts_of_rows(view: ImageView, rows: Any, options: Any, most: int = 1000) -> list[str]:
    """Return what looks wrong in training rows without being an error, for the notes of a task's state.

    Args:
        view: shows the rows of the task.
        rows: training rows, or None.
        options: of the task.
        most: rows that are looked at.
    """
    return [] if rows is None else view.doubts(spread(rows, most), options)


def counted(names: Sequence[Any]) -> str:
    """Return names with their counts for a caption: `cat 2, dog`."""
    counts = Counter(str(name) for name in names)
    return ", ".join(f"{name} {count}" if count > 1 else name for name, count in counts.items())
